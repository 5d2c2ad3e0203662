//! `outlast app new`: the template of an application, written out under its name.
//!
//! The template is what lies in the repository under `apps/template`, with the crate `outlast-app` and the files of the
//! interface beside it: `apps/build` builds it there, and here it is part of the binary. Deliberately absent: templates for
//! other languages.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::anyhow;

use crate::failure::Failure;
use crate::output;

/// What the template's application is called, as a name and as a crate.
const NAME: &str = "my-app";
const CRATE_NAME: &str = "my_app";

/// The crate that the new one is written with: two of one name cannot be built together.
const SDK_NAME: &str = "outlast-app";

/// A file of the template.
struct Template {
    /// In the new directory.
    path: &'static str,
    text: &'static str,
}

/// Files below a directory of the repository, at a place below the new one.
macro_rules! templates {
    ($($directory:literal at $place:literal: $($path:literal)*;)*) => {
        &[$($(Template {
            path: concat!($place, $path),
            text: include_str!(concat!("../../../../", $directory, $path)),
        },)*)*]
    };
}

const TEMPLATES: &[Template] = templates! {
    "apps/template/" at "":
        ".gitignore" "Cargo.lock" "Cargo.toml" "README.md" "build" "outlast-app.toml" "src/hold.rs" "src/lib.rs";
    "apps/sdk/" at "outlast-app/":
        "Cargo.toml" "src/bindings.rs" "src/export.rs" "src/headers.rs" "src/heap.rs" "src/http.rs" "src/lib.rs"
        "src/log.rs" "src/relay.rs" "src/sdp.rs";
    "wit/" at "outlast-app/wit/":
        "handler.wit" "message.wit" "services.wit" "session.wit" "sip.wit" "types.wit" "world.wit";
};

impl Template {
    /// With the application's own name where it is spoken of. The crate that it is written with speaks of none.
    fn named(&self, name: &str) -> String {
        let text = self.text.replace(CRATE_NAME, &name.replace('-', "_"));
        text.replace(NAME, name)
    }

    /// The script is run; everything else is read.
    fn mode(&self) -> u32 {
        if self.text.starts_with("#!") { 0o777 } else { 0o666 }
    }
}

/// Writes it, and says what to do next.
pub(super) fn write(name: &str, path: Option<&Path>) -> Result<(), Failure> {
    if name == SDK_NAME {
        return Err(anyhow!(
            "{name} is what the crate is called that applications are written with; name yours otherwise"
        )
        .into());
    }
    let path = path.unwrap_or(Path::new(name));
    let shown = path.display();
    write_files(name, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{shown} is there already; name another place: outlast app new {name} PATH")
        }
        _ => anyhow!("{shown} cannot be written: {error}"),
    })?;
    output::line(&format!(
        "wrote {shown}, which answers calls to sip:{name}@YOUR-DOMAIN\n\
         next:  {shown}/build                 makes its component\n       \
         outlast app deploy {shown}    on a machine where a node runs\n\
         {shown}/README.md says where to change what"
    ));
    Ok(())
}

/// All of it, or nothing is left.
fn write_files(name: &str, path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    let written = TEMPLATES.iter().try_for_each(|template| {
        let file = path.join(template.path);
        fs::create_dir_all(file.parent().expect("a file is in a directory"))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(template.mode());
        options.open(file)?.write_all(template.named(name).as_bytes())
    });
    written.inspect_err(|_| {
        // What went wrong is told; that a rest stays is seen.
        let _ = fs::remove_dir_all(path);
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    /// Files below a directory, links followed, without what building leaves.
    fn files(directory: &Path) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open = vec![directory.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                let is_built =
                    path.ends_with("target") || path.extension().is_some_and(|end| end == "wasm");
                if path.is_dir() && !is_built {
                    open.push(path);
                } else if !is_built {
                    found.insert(path.strip_prefix(directory).unwrap().to_owned());
                }
            }
        }
        found
    }

    #[test]
    fn every_file_of_the_template_is_written_under_the_new_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("here");
        write("door-bell", Some(&path)).unwrap();
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps/template");
        assert_eq!(files(&path), files(&template), "TEMPLATES names them all");
        for file in files(&path) {
            let text = fs::read_to_string(path.join(&file)).unwrap();
            assert!(!text.contains(NAME) && !text.contains(CRATE_NAME), "{}", file.display());
            let original = fs::read_to_string(template.join(&file)).unwrap();
            assert_eq!(
                text == original,
                !original.contains(NAME) && !original.contains(CRATE_NAME)
            );
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o100;
            assert_eq!(mode(&path.join(&file)), mode(&template.join(&file)), "{}", file.display());
        }
        let manifest = config::manifest::load(&path.join(config::manifest::FILE_NAME)).unwrap();
        assert_eq!((&*manifest.name, &*manifest.component), ("door-bell", "door_bell.wasm"));
    }

    #[test]
    fn the_name_of_the_crate_for_applications_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("here");
        let failure = write(SDK_NAME, Some(&path)).unwrap_err().to_string();
        assert!(failure.contains("name yours otherwise") && !path.exists(), "{failure}");
        assert!(include_str!("../../../../apps/sdk/Cargo.toml").contains("name = \"outlast-app\""));
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let failure = write("bell", Some(directory.path())).unwrap_err().to_string();
        assert!(failure.contains("is there already; name another place"), "{failure}");
        assert!(files(directory.path()).is_empty());
        let nowhere = directory.path().join("none/bell");
        let failure = write("bell", Some(&nowhere)).unwrap_err().to_string();
        assert!(failure.contains("cannot be written"), "{failure}");
    }
}
