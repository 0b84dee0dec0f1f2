//! (c) The agent's pipeline alone, on one core.

use super::Effort;
use super::report::Table;

/// None until the library has a pipeline to drive.
pub fn pipeline(_effort: Effort) -> Option<Table> {
    None
}
