//! What people read: colours, tables, and diagnostics with the line they are
//! about. What scripts read are the serialised types of each command.

pub mod annotations;
mod diagnostics;
mod encode;
mod fold;
mod lines;
mod names;
mod plain;
mod resolved;
mod style;
mod table;
mod time;

pub use diagnostics::{Excerpt, SourceLines, render};
pub use encode::Encoding;
pub use fold::{UNLIMITED, WIDTH, folded, width};
pub use lines::Lines;
pub use names::{destination_name, place_name, route_name, rule_name, source_name};
pub use plain::{plain, short};
pub use resolved::{known_name, known_names, some_addresses};
pub use style::Style;
pub use table::{Align, Table};
pub use time::time;
