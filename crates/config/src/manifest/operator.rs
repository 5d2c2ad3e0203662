//! `settings.toml` beside a deployed manifest: values that the operator set in place of those of `[config]`.
//!
//! Only keys that the manifest has can be set, so that a misspelt one is told and a new version that dropped one is seen.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::Manifest;
use crate::nearest::nearest;
use crate::text_of;
use crate::{ConfigError, Problem};

/// The file's name.
const NAME: &str = "settings.toml";

/// The longest value, in octets, like one of the manifest.
const VALUE_BYTES_MAX: usize = super::parse::CONFIG_BYTES_MAX.1;

/// Why a setting is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// The manifest's `[config]` has no such key.
    #[error("{name} has no setting {key}{hint}; its outlast-app.toml lists them under [config]")]
    Unknown {
        /// The application.
        name: String,
        /// The key.
        key: String,
        /// The nearest key that there is.
        hint: String,
    },
    /// Over the limit.
    #[error("the value of {key} has {length} octets; at most {VALUE_BYTES_MAX} are taken")]
    TooLong {
        /// The key.
        key: String,
        /// The value's length.
        length: usize,
    },
}

impl Manifest {
    /// Puts the operator's value in place of the manifest's.
    ///
    /// # Errors
    /// [`SettingError`]; nothing has changed then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(SettingError::TooLong { key: key.to_owned(), length: value.len() });
        }
        let Some(present) = self.config.get_mut(key) else {
            let known: Vec<&str> = self.config.keys().map(String::as_str).collect();
            let hint = nearest(key, &known);
            return Err(SettingError::Unknown {
                name: self.name.clone(),
                key: key.to_owned(),
                hint: hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default(),
            });
        };
        value.clone_into(present);
        Ok(())
    }
}

/// Reads what the operator set; nothing if there is no such file.
///
/// # Errors
/// [`ConfigError`]
pub fn load_settings(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let text = match text_of(path, NAME) {
        Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(BTreeMap::new());
        }
        text => text?,
    };
    toml::from_str(&text).map_err(|error| {
        let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
        let line = 1 + before.matches('\n').count();
        let problems = vec![Problem::of_file(NAME, line, error.message().to_owned())];
        ConfigError::Refused { path: path.to_owned(), problems }
    })
}

/// What the operator set, as [`load_settings`] reads it.
pub fn settings_text(settings: &BTreeMap<String, String>) -> String {
    toml::to_string(settings).expect("names and texts can be written")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn manifest() -> Manifest {
        let text = "name = \"a\"\nversion = \"1.0.0\"\ncomponent = \"a.wasm\"\n[config]\ngreeting = \"hello\"\n";
        super::super::parse(text).unwrap()
    }

    #[test]
    fn the_operator_sets_what_the_manifest_names() {
        let mut manifest = manifest();
        manifest.set("greeting", "good morning").unwrap();
        assert_eq!(manifest.config["greeting"], "good morning");
        let error = manifest.set("greting", "x").unwrap_err().to_string();
        assert!(error.contains("did you mean greeting?"), "{error}");
        assert!(manifest.set("greeting", &"x".repeat(VALUE_BYTES_MAX + 1)).is_err());
        assert_eq!(manifest.config["greeting"], "good morning");
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        assert_eq!(load_settings(&path).unwrap(), BTreeMap::new());
        let settings = BTreeMap::from([("a-b".to_owned(), "say \"x\"\nand = y".to_owned())]);
        fs::write(&path, settings_text(&settings)).unwrap();
        assert_eq!(load_settings(&path).unwrap(), settings);
        fs::write(&path, "a = \"b\"\nc = 1\n").unwrap();
        let error = load_settings(&path).unwrap_err().to_string();
        assert!(error.contains("settings.toml:2"), "{error}");
    }
}
