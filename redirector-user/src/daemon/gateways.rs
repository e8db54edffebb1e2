//! The gateways that this node serves: the proxy, started when the first one
//! appears.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use redirector_core::plan::{DestinationId, Plan, RouteId};

use super::engine::PreparedChange;
use super::{descriptors, log};
use crate::again::Again;
use crate::identity::{Local, Locals};
use crate::proxy::{self, Config, ListenerState, Proxy, RelayStatus, Settings, Status, Through};
use crate::state::GatewayListener;

/// The gateways.
pub struct Gateways {
    proxy: Option<Proxy>,
    /// What is not served as the proxy could not be started, and when that is tried again.
    failed: Vec<GatewayListener>,
    again: Again,
    /// How they are relayed.
    settings: Settings,
    /// Listening sockets of a predecessor, until the first plan.
    inherited: Vec<OwnedFd>,
    /// What connections at gateways are sent along.
    routes: BTreeSet<Arc<RouteId>>,
    destinations: BTreeSet<DestinationId>,
    /// Whom clients of this machine are.
    locals: Locals,
}

impl Gateways {
    /// None yet; they will be relayed like this. `inherited` are listening sockets of a
    /// predecessor.
    pub fn new(settings: Settings, inherited: Vec<OwnedFd>) -> Self {
        Self {
            proxy: None,
            failed: Vec::new(),
            again: Again::default(),
            settings,
            inherited,
            routes: BTreeSet::new(),
            destinations: BTreeSet::new(),
            locals: Locals::default(),
        }
    }

    /// Whether connections go on without this daemon, until the next one comes.
    pub fn stays(&self) -> bool {
        self.settings.door.is_some()
    }

    /// Leaves connections and listening sockets to the next daemon.
    pub fn leave(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            proxy.leave();
        }
    }

    /// Another pod's daemon is in charge: has what relays here accept no more, if that
    /// daemon has not, and its connections finish. Does not wait for them.
    pub fn give_way(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            proxy.give_way();
        }
    }

    /// These workloads are there from now on.
    pub fn know(&self, locals: Vec<Local>) {
        if self.locals.set(locals)
            && let Some(proxy) = &self.proxy
        {
            proxy.forget();
        }
    }

    /// The process that relays logs at this level from now on.
    pub fn log_at(&self, level: &str) {
        if let Some(proxy) = &self.proxy {
            proxy.log_at(level);
        }
    }

    /// What relays gets another door where somebody has removed the one that it had.
    pub fn see_to_door(&self) {
        if let (Some(door), Some(proxy)) = (&self.settings.door, &self.proxy)
            && !door.exists()
        {
            proxy.open_door();
        }
    }

    /// Whether all that is to be served is accepted by a relay of this daemon's, where it can be
    /// listened there; else why not.
    pub fn serve(&self) -> Result<(), String> {
        if let Some(proxy) = &self.proxy {
            return proxy.serves().unwrap_or_else(|stopped| Err(stopped.to_string()));
        }
        let failed = self.failed.iter().find_map(|listener| listener.error.clone());
        failed.map_or(Ok(()), Err)
    }

    /// Serves what the plan says from now on, if a step changes anything about that.
    pub fn follow(&mut self, step: &PreparedChange, plan: &Plan) {
        if step.changes.gateways.is_some() {
            let rules = plan.gateways.listeners.values().flat_map(|listener| &listener.rules);
            self.routes = rules.filter_map(|rule| rule.route.clone()).collect();
            let destinations = self.routes.iter().flat_map(|route| &route.destinations);
            self.destinations = destinations.cloned().collect();
        }
        let changes = &step.changes;
        // One that could not be started, or has ended, is tried again.
        let is_down = self.proxy.is_none() && !plan.gateways.listeners.is_empty();
        if step.is_first
            || is_down
            || changes.gateways.is_some()
            || changes.routes.keys().any(|id| self.routes.contains(id))
            || changes.destinations.keys().any(|id| self.destinations.contains(id))
        {
            self.update(plan);
        }
    }

    /// Starts the proxy if it could not be, and it is time to try again.
    pub fn start_when_it_is_time(&mut self, plan: &Plan) {
        if self.again.is_due() {
            self.update(plan);
        }
    }

    /// How long until then.
    pub fn until_start(&self) -> Option<Duration> {
        self.again.until()
    }

    /// There is no proxy.
    fn fails(&mut self, plan: &Plan, why: &dyn Display) {
        tracing::error!("the gateway proxy: {why}; trying again");
        let failed = Config::of_plan(plan).listeners.into_iter().map(|listener| GatewayListener {
            address: listener.address,
            gateway: listener.name.to_string(),
            error: Some(why.to_string()),
            draining: false,
        });
        self.failed = failed.collect();
        self.again.failed();
    }

    fn update(&mut self, plan: &Plan) {
        self.failed.clear();
        if self.proxy.is_none() {
            let inherited = std::mem::take(&mut self.inherited);
            // One that an earlier daemon left may serve what is there no more.
            let is_left = self.settings.door.as_deref().is_some_and(proxy::is_at);
            if plan.gateways.listeners.is_empty() && !is_left {
                self.again.over();
                return;
            }
            if let Err(error) = descriptors::raise_limit() {
                tracing::warn!(%error, "the limit of open files stays as it is");
            }
            let mut settings = self.settings.clone();
            settings.log = log::like_this().unwrap_or(settings.log);
            match Proxy::start(settings, Arc::new(self.locals.clone()), inherited) {
                Ok(proxy) => self.proxy = Some(proxy),
                Err(error) => return self.fails(plan, &error),
            }
        }
        let Some(proxy) = &self.proxy else { return };
        match proxy.update(Config::of_plan(plan)) {
            Ok(status) => {
                self.again.over();
                for listener in &status.listeners {
                    if let ListenerState::Failed { error, .. } = &listener.state {
                        let (gateway, address) = (&listener.name, listener.address);
                        tracing::warn!(%gateway, %address, %error, "cannot listen; trying again");
                    }
                }
            }
            Err(error) => {
                self.proxy = None;
                self.fails(plan, &error);
            }
        }
    }

    /// What is served, and by which process, for `status`.
    pub fn report(&self) -> (Vec<GatewayListener>, Option<RelayStatus>) {
        let Some(status) = self.status() else { return (self.failed.clone(), None) };
        let listeners = status.listeners.into_iter().map(GatewayListener::from).collect();
        (listeners, status.relay)
    }

    /// How the proxy is doing, when there is one.
    pub fn status(&self) -> Option<Status> {
        self.proxy.as_ref()?.status().ok()
    }

    /// What was told of connections after the record of this number, when there is a
    /// proxy; there is more for so long from now on.
    pub fn told(&self, after: u64, time: Duration) -> Vec<Through> {
        let told = self.proxy.as_ref().and_then(|proxy| proxy.follow(after, time).ok());
        told.unwrap_or_default()
    }

    /// Copies of all listening sockets, for a successor.
    ///
    /// # Errors
    ///
    /// When descriptors have run out.
    pub fn share(&self) -> io::Result<Vec<OwnedFd>> {
        let Some(proxy) = &self.proxy else { return Ok(Vec::new()) };
        proxy.share().map_err(io::Error::other)?
    }

    /// Lets connections finish, for as long as they may, and ends.
    pub fn shutdown(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            proxy.shutdown();
        }
    }
}

impl Drop for Gateways {
    /// A relay that stays does so however the daemon ends, by an error too.
    fn drop(&mut self) {
        if self.stays() {
            self.leave();
        }
    }
}
