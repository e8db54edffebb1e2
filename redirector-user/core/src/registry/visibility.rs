//! `exportTo`: which namespaces see an object.

use std::sync::Arc;

use crate::client::Asker;

/// A parsed `exportTo`, the same on VirtualServices, DestinationRules,
/// ServiceEntries and (as an annotation) Services.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExportTo {
    /// `*`, or nothing said.
    public: bool,
    /// `.` or the object's own namespace.
    own: bool,
    /// Other namespaces, sorted.
    named: Vec<Arc<str>>,
    /// The object's own namespace.
    home: Arc<str>,
}

/// Why a client sees an object; in this order VirtualServices are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reach {
    /// It is private to the client's namespace.
    Private,
    /// It is exported to the client's namespace by name.
    Named,
    /// It is public.
    Public,
}

impl ExportTo {
    /// Parses the entries of an object in namespace `home`. `~` exports to
    /// nobody.
    pub fn new<'s>(entries: impl IntoIterator<Item = &'s str>, home: &Arc<str>) -> Self {
        let mut export = Self { public: false, own: false, named: Vec::new(), home: home.clone() };
        let mut said = false;
        for entry in entries.into_iter().map(str::trim).filter(|entry| !entry.is_empty()) {
            said = true;
            match entry {
                "*" => export.public = true,
                "~" => {}
                "." => export.own = true,
                name if name == &**home => export.own = true,
                name => export.named.push(name.into()),
            }
        }
        if !said {
            export.public = true;
        }
        if export.public {
            export.own = false;
            export.named.clear();
        }
        export.named.sort_unstable();
        export.named.dedup();
        export
    }

    /// Visible in its own namespace only.
    pub fn private(home: &Arc<str>) -> Self {
        Self { public: false, own: true, named: Vec::new(), home: home.clone() }
    }

    /// The same, but in no other namespace than its own.
    #[must_use]
    pub fn at_home(&self) -> Self {
        let own = self.public || self.own;
        Self { public: false, own, named: Vec::new(), home: self.home.clone() }
    }

    /// Whether and why the client sees the object.
    pub fn reach<'q>(&'q self, who: &Asker<'_, 'q>) -> Option<Reach> {
        if self.public {
            Some(Reach::Public)
        } else if self.own && who.in_namespace(&self.home) {
            Some(Reach::Private)
        } else if self.named.iter().any(|namespace| who.in_namespace(namespace)) {
            Some(Reach::Named)
        } else {
            None
        }
    }

    /// Whether the client sees the object.
    pub fn visible<'q>(&'q self, who: &Asker<'_, 'q>) -> bool {
        self.reach(who).is_some()
    }

    /// Whether a client may see both an object and another one.
    pub fn meets(&self, other: &Self) -> bool {
        let is_somebodys = |one: &Self| one.public || one.namespaces().next().is_some();
        match (self.public, other.public) {
            (true, _) => is_somebodys(other),
            (_, true) => is_somebodys(self),
            _ => self.namespaces().any(|name| other.namespaces().any(|other| name == other)),
        }
    }

    /// Whether everybody sees it.
    pub fn is_public(&self) -> bool {
        self.public
    }

    /// Whether it is exported to other namespaces than its own.
    pub fn leaves_home(&self) -> bool {
        self.public || !self.named.is_empty()
    }

    /// The namespaces that the answer depends on.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.own.then_some(&self.home).into_iter().chain(&self.named)
    }

    /// For messages: `exported to foo, bar only`.
    pub fn describe(&self) -> String {
        if self.public {
            return "public".to_owned();
        }
        let names: Vec<&str> = self.namespaces().map(|name| &**name).collect();
        if names.is_empty() {
            "exported to no namespace".to_owned()
        } else {
            format!("exported to {} only", names.join(", "))
        }
    }
}
