//! State files: where a long command stands, so that it can go on after it was interrupted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::failure::{Failure, Outcome};

/// A file that holds a state of type `S`, replaced as a whole.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file at `path`, and the state that it holds if it exists.
    ///
    /// # Errors
    /// If the file cannot be read, or holds something else.
    pub(super) fn open<S: DeserializeOwned>(path: &Path) -> Outcome<(Self, Option<S>)> {
        let file = Self {
            path: path.to_owned(),
        };
        match fs::read(path) {
            Ok(bytes) => {
                let state = serde_json::from_slice(&bytes).map_err(|error| {
                    Failure::Usage(format!(
                        "{} is no state file of this command: {error}; name another file, or delete it to start over",
                        path.display()
                    ))
                })?;
                Ok((file, Some(state)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((file, None)),
            Err(error) => Err(Failure::file(path)(error)),
        }
    }

    /// Replaces the state; an interruption leaves the old one or the new one.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn store(&self, state: &impl Serialize) -> Outcome {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let text = serde_json::to_vec_pretty(state)
            .map_err(|error| Failure::file(&self.path)(error.into()))?;
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.path))
            .map_err(Failure::file(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields)]
    struct State {
        offset: u64,
    }

    #[test]
    fn a_state_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.json");
        let (file, state) = StateFile::open::<State>(&path).expect("absent is fine");
        assert_eq!(state, None);
        for offset in [1, 2] {
            file.store(&State { offset }).expect("writable");
        }
        let (_, state) = StateFile::open::<State>(&path).expect("readable");
        assert_eq!(state, Some(State { offset: 2 }));
    }

    #[test]
    fn another_file_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("precious.txt");
        fs::write(&path, "precious").expect("writable");
        let error = StateFile::open::<State>(&path).expect_err("no state");
        assert!(error.to_string().contains("no state file"), "{error}");
    }
}
