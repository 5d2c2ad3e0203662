//! `outlast registrations`: who is registered, read from the store, with the node up or down.

use std::path::Path;

use registrar::Registration;
use state::UnixMillis;

use crate::command_line::Reader;
use crate::failure::Failure;
use crate::output;
use crate::stores;

pub(crate) fn registrations(directory: &Path, reader: Reader) -> Result<(), Failure> {
    stores::must_exist(directory)?;
    let store = stores::open_state(directory)?;
    let now = UnixMillis::from(std::time::SystemTime::now());
    let listed = stores::runtime()?.block_on(registrar::registrations(&*store, now));
    let all = listed.map_err(anyhow::Error::from)?;
    match reader {
        Reader::Program => output::json(&all),
        Reader::Person => {
            let rows: Vec<Vec<String>> = all.iter().map(row).collect();
            output::table(&["ADDRESS OF RECORD", "CONTACT", "EXPIRES", "RECEIVED FROM"], &rows);
            Ok(())
        }
    }
}

fn row(registration: &Registration) -> Vec<String> {
    vec![
        registration.aor.clone(),
        registration.contact.clone(),
        format!("{} s", registration.expires_s),
        registration.received.clone(),
    ]
}
