//! The certificates of a cluster of a test: of its authority, its nodes and one client. Beside them a test puts what is
//! wrong in the way that it needs.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use flotilla::tls::{
    ClientFiles, ClientTls, Identity,
    create::{Authority, Issued, Validity},
    identity::new_cluster,
};
use flotilla_shards::ids::NodeId;

/// A day: longer than any test.
pub const LASTING: Duration = Duration::from_secs(24 * 60 * 60);

/// See the module.
pub struct Certificates {
    /// Where they lie: `NAME.crt` and `NAME.key` with the names `ca`, `node1`…, `client-test`.
    pub folder: PathBuf,
    /// Who has made them.
    pub authority: Authority,
}

impl Certificates {
    pub(crate) fn create(folder: PathBuf, nodes: usize) -> Self {
        fs::create_dir_all(&folder).expect("the folder is writable");
        let validity = Validity::lasting(LASTING);
        let (authority, issued) = Authority::new(new_cluster(), validity).expect("an authority");
        let certificates = Self { folder, authority };
        certificates.put("ca", &issued);
        for node in 1..=nodes as u64 {
            let issued = certificates.issue(&Identity::Node(NodeId(node)), validity);
            certificates.put(&format!("node{node}"), &issued);
        }
        let client = Identity::Client("test".into());
        certificates.put("client-test", &certificates.issue(&client, validity));
        certificates
    }

    /// Makes one more.
    pub fn issue(&self, identity: &Identity, validity: Validity) -> Issued {
        let issued = self.authority.issue(identity, &[], validity);
        issued.expect("a certificate")
    }

    /// A certificate's and a key's file.
    pub fn paths(&self, name: &str) -> [PathBuf; 2] {
        ["crt", "key"].map(|extension| self.folder.join(format!("{name}.{extension}")))
    }

    /// Writes a certificate and its key; over what was there.
    pub fn put(&self, name: &str, issued: &Issued) {
        let [cert, key] = self.paths(name);
        for (path, content) in [(cert, &issued.cert), (key, &issued.key)] {
            // As programs that renew certificates do it: the file is never half there.
            let new = path.with_extension("new");
            fs::write(&new, content).expect("the folder is writable");
            fs::rename(&new, path).expect("the folder is writable");
        }
    }

    /// Flags with the files of a holder.
    pub fn flags(&self, name: &str) -> [(&'static str, String); 3] {
        let [cert, key] = self.paths(name).map(|path| path.display().to_string());
        let [ca, _] = self.paths("ca").map(|path| path.display().to_string());
        [("--ca", ca), ("--cert", cert), ("--key", key)]
    }

    /// The client that all commands of a test are.
    pub fn client(&self) -> ClientTls {
        self.client_named("client-test")
    }

    /// A client with the files of this name.
    pub fn client_named(&self, name: &str) -> ClientTls {
        let ([ca, _], [cert, key]) = (self.paths("ca"), self.paths(name));
        let files = ClientFiles {
            ca,
            pair: Some((cert, key)),
        };
        ClientTls::load(files).expect("what was just made")
    }
}

/// Valid for a time that is over.
pub fn expired() -> Validity {
    let now = SystemTime::now();
    Validity {
        from: now - 2 * LASTING,
        until: now - LASTING,
    }
}
