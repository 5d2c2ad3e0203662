//! `outlast identity …`: further names of an account.

use std::path::Path;

use crate::command_line::IdentityCommand;
use crate::failure::Failure;
use crate::output;
use crate::stores::with_accounts;
use crate::user::password_from_stdin;

pub(crate) fn identity(directory: &Path, command: IdentityCommand) -> Result<(), Failure> {
    match command {
        IdentityCommand::Add { account, identity, private: true, password_stdin: _ } => {
            let password = password_from_stdin()?;
            with_accounts(directory, async |accounts| {
                accounts.add_private_identity(&account, &identity, &password).await
            })?;
            output::line(&format!("{account} may log in as {identity}"));
        }
        IdentityCommand::Add { account, identity, private: false, password_stdin: _ } => {
            with_accounts(directory, async |accounts| {
                accounts.add_public_identity(&account, &identity).await
            })?;
            output::line(&format!("{account} may register and be called as {identity}"));
        }
        IdentityCommand::Remove { account, identity, private: true } => {
            with_accounts(directory, async |accounts| {
                accounts.remove_private_identity(&account, &identity).await
            })?;
            output::line(&format!("removed {identity} from {account}"));
        }
        IdentityCommand::Remove { account, identity, private: false } => {
            with_accounts(directory, async |accounts| {
                accounts.remove_public_identity(&account, &identity).await
            })?;
            output::line(&format!("removed {identity} from {account}"));
        }
    }
    Ok(())
}
