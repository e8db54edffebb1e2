//! What people read: colours, tables, and diagnostics with the line they are
//! about. What scripts read are the serialised types of each command.

mod diagnostics;
mod style;
mod table;

pub use diagnostics::{SourceLines, render};
pub use style::Style;
pub use table::{Align, Table};
