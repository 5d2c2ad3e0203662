//! `outlast config check`: everything wrong with the file, at once.

use std::path::Path;

use crate::failure::Failure;
use crate::output;
use crate::stores::must_exist;

pub(crate) fn check(directory: &Path) -> Result<(), Failure> {
    must_exist(directory)?;
    let path = directory.join(config::FILE_NAME);
    config::load(&path)?;
    output::line(&format!("{}: ok", path.display()));
    Ok(())
}
