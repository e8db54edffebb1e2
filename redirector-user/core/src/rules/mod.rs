//! Rules: their conditions, their order, and the one way of a connection through
//! them.
//!
//! * [`condition`]: the conditions of match blocks, each kind in one place.
//! * [`book`]: the rules of VirtualServices, in their total order.
//! * [`claims`]: which services claim which addresses and ports.
//! * [`destination`]: what an entry of a route names.
//! * [`servers`]: servers of Gateways, and which rules they meet.
//! * [`walk`]: from what is dialled to the rule that is in force.
//!
//! Nothing here knows of tables or proxies: [`compile`](crate::compile) makes
//! those, and [`explain`](crate::explain) tells why, by the same walk.

mod book;
mod claims;
mod condition;
mod destination;
mod servers;
mod walk;

pub(crate) use book::{Rule, RuleBook, RuleSet, in_order};
pub(crate) use claims::{Claim, ClaimKind, Claims, claimed, left_out, places};
pub(crate) use condition::{Anchor, Dial, ServerName, is_everything};
pub use condition::{Block, Condition};
pub use destination::Lacks;
pub(crate) use destination::{Named, named, subsets_resolve};
pub use servers::{Mode, relays};
pub(crate) use servers::{
    Outdone, Serving, as_client, bound_elsewhere, by_age, leads_there, leads_to, mode, selects,
    servers, services_of,
};
pub(crate) use walk::{Arrival, Unwatched, Walk, Witness};
