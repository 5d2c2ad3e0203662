//! `outlast user …`: the accounts of the node.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use registrar::Account;

use crate::command_line::{Reader, UserCommand};
use crate::failure::Failure;
use crate::output;
use crate::stores::with_accounts;

/// Longer input is no password but a file sent by mistake; the account store has the exact limit.
const INPUT_BYTES_MAX: u64 = 64 << 10;

pub(crate) fn user(directory: &Path, command: UserCommand) -> Result<(), Failure> {
    match command {
        UserCommand::Add { name, roles, password: _ } => {
            let password = password_from_stdin()?;
            let account = with_accounts(directory, async |accounts| {
                accounts.add(&name, &password, &roles).await
            })?;
            remark_foreign_domain(directory, &account.name);
            output::line(&format!("added {}", account.name));
        }
        UserCommand::List { json } => {
            let all = with_accounts(directory, async |accounts| accounts.list().await)?;
            return list(&all, json.into());
        }
        UserCommand::Show { name, json } => {
            let account = with_accounts(directory, async |accounts| accounts.show(&name).await)?;
            return show(&account, json.into());
        }
        UserCommand::Passwd { name, password: _ } => {
            let password = password_from_stdin()?;
            with_accounts(directory, async |accounts| {
                accounts.set_password(&name, &password).await
            })?;
            output::line(&format!("changed the password of {name}"));
        }
        UserCommand::Remove { name } => {
            with_accounts(directory, async |accounts| accounts.remove(&name).await)?;
            output::line(&format!("removed {name}"));
        }
    }
    Ok(())
}

/// All of standard input (of a terminal: one line of it) without its final line end.
pub(crate) fn password_from_stdin() -> anyhow::Result<Vec<u8>> {
    let stdin = io::stdin().lock();
    let is_typed = stdin.is_terminal();
    let mut input = stdin.take(INPUT_BYTES_MAX);
    let mut password = Vec::new();
    let read = if is_typed {
        output::remark("type the password (it is shown) and Enter");
        input.read_until(b'\n', &mut password)
    } else {
        input.read_to_end(&mut password)
    };
    read.context("standard input")?;
    if password.last() == Some(&b'\n') {
        password.pop();
        if password.last() == Some(&b'\r') {
            password.pop();
        }
    }
    if password.is_empty() {
        bail!("no password on standard input; for example: printf secret | outlast user add …");
    }
    Ok(password)
}

/// An account of a domain that the node does not serve cannot register: allowed, but worth a word.
fn remark_foreign_domain(directory: &Path, name: &str) {
    let Ok(config::Effective { config, .. }) = config::of_node(directory) else {
        return; // before the first run, or refused: other commands tell
    };
    let domain = name.rsplit('@').next().unwrap_or_default();
    if !config.registrar.domains.iter().any(|served| served.eq_ignore_ascii_case(domain)) {
        output::remark(&format!(
            "{domain} is not among registrar.domains; add it where they stand (outlast config show --origin), and stop and start \
             the node"
        ));
    }
}

fn list(all: &[Account], reader: Reader) -> Result<(), Failure> {
    if reader == Reader::Program {
        return output::json(&all);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|account| {
            vec![account.name.clone(), account.roles.join(" "), account.public_identities.join(" ")]
        })
        .collect();
    output::table(&["NAME", "ROLES", "PUBLIC IDENTITIES"], &rows);
    Ok(())
}

fn show(account: &Account, reader: Reader) -> Result<(), Failure> {
    if reader == Reader::Program {
        return output::json(account);
    }
    output::line(&format!("name                {}", account.name));
    output::line(&format!("roles               {}", account.roles.join(" ")));
    output::line(&format!("private identities  {}", account.private_identities.join(" ")));
    output::line(&format!("public identities   {}", account.public_identities.join(" ")));
    Ok(())
}
