//! `outlast config check`: everything wrong with the file, alone and together with the cluster's configuration, at once.

use std::path::Path;

use super::hidden;
use crate::failure::Failure;
use crate::output;
use crate::stores::must_exist;

pub(super) fn check(directory: &Path) -> Result<(), Failure> {
    must_exist(directory)?;
    let path = directory.join(config::FILE_NAME);
    config::load(&path)?;
    let effective = config::of_node(directory)?;
    output::line(&format!("{}: ok", path.display()));
    hidden(&effective).iter().for_each(|line| output::remark(line));
    Ok(())
}
