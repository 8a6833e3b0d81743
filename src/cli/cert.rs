//! `cert`: makes the certificates of a cluster. Files that are there already are never written over.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flotilla_shards::ids::NodeId;

use super::{
    failure::{Failure, Outcome},
    output::talk,
};
use crate::tls::{
    create::{Authority, CreateError, Issued, Validity},
    identity::{Identity, cluster_hex, is_client_name, new_cluster, read_cluster},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Commands about certificates.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Cert {
    /// Make the authority of a cluster, which makes all its other certificates
    #[command(name = "create-ca")]
    Ca(CreateCa),
    /// Make the certificate of a node
    #[command(name = "create-node")]
    Node(CreateNode),
    /// Make the certificate of a client
    #[command(name = "create-client")]
    Client(CreateClient),
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateCa {
    /// Folder for ca.crt and ca.key; made if it is missing
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Days that it is valid
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// The id of a cluster that exists already (`flotilla status` shows it); without: a new one, which the cluster gets when
    /// it is made
    #[arg(long, value_name = "HEX", value_parser = cluster)]
    cluster: Option<[u8; 16]>,
}

#[derive(Debug, clap::Args)]
struct FromCa {
    /// Folder where ca.crt and ca.key lie, and where the new files go
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Another folder for the new files; made if it is missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Days that it is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateNode {
    /// The node's id in the cluster: nodes of a new cluster are numbered from 1
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Host names and IP addresses of the node, for programs that look at them (Flotilla's own do not)
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    host: Vec<String>,
    #[command(flatten)]
    from: FromCa,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateClient {
    /// The client's name: letters, digits and - . _ @
    #[arg(value_parser = client_name)]
    name: Arc<str>,
    #[command(flatten)]
    from: FromCa,
}

fn cluster(text: &str) -> Result<[u8; 16], String> {
    read_cluster(text).ok_or_else(|| "expected the 32 hex digits of a cluster's id".to_owned())
}

fn client_name(text: &str) -> Result<Arc<str>, String> {
    let expected = "expected 1 to 64 letters, digits and - . _ @";
    is_client_name(text)
        .then(|| text.into())
        .ok_or_else(|| expected.to_owned())
}

fn lasting(days: u32) -> Validity {
    Validity::lasting(DAY * days)
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        Self::Incomplete(error.to_string())
    }
}

impl Cert {
    pub(super) fn run(&self) -> Outcome {
        match self {
            Self::Ca(create) => create.run(),
            Self::Node(create) => {
                let identity = Identity::Node(NodeId(create.id));
                create
                    .from
                    .issue(&identity, &create.host, &format!("node{}", create.id))
            }
            Self::Client(create) => {
                let identity = Identity::Client(Arc::clone(&create.name));
                create
                    .from
                    .issue(&identity, &[], &format!("client-{}", create.name))
            }
        }
    }
}

impl CreateCa {
    fn run(&self) -> Outcome {
        let (authority, issued) =
            Authority::new(self.cluster.unwrap_or_else(new_cluster), lasting(self.days))?;
        let [cert, key] = write(&self.dir, "ca", &issued)?;
        talk(format!(
            "{}: the authority of cluster {}; every node and client needs a copy",
            cert.display(),
            cluster_hex(&authority.cluster())
        ));
        talk(format!(
            "{}: its secret; whoever has it can make nodes and clients: keep it off the nodes",
            key.display()
        ));
        Ok(())
    }
}

impl FromCa {
    fn issue(&self, identity: &Identity, hosts: &[String], stem: &str) -> Outcome {
        let authority = Authority::load(&self.dir.join("ca.crt"), &self.dir.join("ca.key"))?;
        let issued = authority.issue(identity, hosts, lasting(self.days))?;
        let [cert, key] = write(self.out.as_ref().unwrap_or(&self.dir), stem, &issued)?;
        talk(format!(
            "{}: {identity} of cluster {}, for {} days",
            cert.display(),
            cluster_hex(&authority.cluster()),
            self.days
        ));
        talk(format!(
            "{}: its secret, for that holder alone",
            key.display()
        ));
        Ok(())
    }
}

/// Writes a certificate and its key, or neither.
fn write(folder: &Path, stem: &str, issued: &Issued) -> Outcome<[PathBuf; 2]> {
    let paths = ["crt", "key"].map(|extension| folder.join(format!("{stem}.{extension}")));
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(there_already(path));
    }
    fs::create_dir_all(folder).map_err(Failure::file(folder))?;
    let [cert, key] = &paths;
    create(key, 0o600, &issued.key)?;
    create(cert, 0o644, &issued.cert).inspect_err(|_| {
        // Best effort: what is reported is why the certificate was not written.
        let _ = fs::remove_file(key);
    })?;
    Ok(paths)
}

fn create(path: &Path, mode: u32, content: &str) -> Outcome {
    let opened = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => there_already(path),
        _ => Failure::file(path)(error),
    })?;
    let written = file
        .write_all(content.as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(Failure::file(path))
}

fn there_already(path: &Path) -> Failure {
    Failure::Incomplete(format!(
        "{} is there already, and certificates and keys are never written over: move it away, or give another folder by \
         --dir or --out",
        path.display()
    ))
}
