//! The names of the maps: in the programs' object, and of their pins.

macro_rules! names {
    ($($name:ident)*) => {
        $(pub const $name: &str = stringify!($name);)*
    };
}

names! {
    CONTROL
    READERS
    FRONTENDS
    PREFIXES
    CLASS_VERDICTS
    CLASS_DEFAULTS
    CLASS_OF
    ROUTES
    LEGS
    DESTINATIONS
    BACKENDS
    CGROUP_SOURCES
    NETNS_SOURCES
    TOTALS
    LEG_COUNTERS
    FLOW_COUNTERS
    CONNECTIONS
    OVERFLOW
    OVERFLOW_STATE
    OVERFLOW_SHARES
    LIVE
    SHARES
    FLOW_HEAD
    FLOWS
}
