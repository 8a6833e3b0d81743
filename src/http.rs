//! One question over HTTP, and its answer: how commands and benchmarks read the pages of status ports, and of other software
//! that exports metrics. Nodes ask each other by gRPC, so this knows no more of HTTP than those servers need.

use std::{borrow::Cow, fmt::Display, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, ToSocketAddrs},
};

/// What a server answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) code: u16,
    /// Status line and headers.
    pub(crate) head: String,
    /// All of it.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads an answer that has ended.
    ///
    /// # Errors
    /// It is not HTTP, or broke off.
    pub(crate) fn parse(mut bytes: Vec<u8>) -> io::Result<Self> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let no_http = || invalid("the answer is not HTTP; is this the port of a status server?");
        let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        let end = end.filter(|_| bytes.starts_with(b"HTTP/1."));
        let body = bytes.split_off(end.ok_or_else(no_http)? + 4);
        let head = String::from_utf8_lossy(&bytes).into_owned();
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(no_http)?;
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if length.is_some_and(|(_, length)| length.trim() != body.len().to_string()) {
            return Err(invalid("the answer broke off"));
        }
        Ok(Self { code, head, body })
    }

    /// The body for people.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

/// Asks for a page. Answers beyond `bytes_max` are errors; how long it may take is up to the caller.
pub(crate) async fn get(
    address: impl ToSocketAddrs + Display,
    path: &str,
    bytes_max: u64,
) -> io::Result<Answer> {
    ask(address, "GET", path, "", bytes_max).await
}

/// The same by any method, with a body.
pub(crate) async fn ask(
    address: impl ToSocketAddrs + Display,
    method: &str,
    path: &str,
    body: &str,
    bytes_max: u64,
) -> io::Result<Answer> {
    // By version 1.0 the body comes in one piece, and the connection ends with it.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut bounded = connection.take(bytes_max.saturating_add(1));
    bounded.read_to_end(&mut answer).await?;
    if answer.len() as u64 > bytes_max {
        let why = format!("the answer has more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Answer::parse(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What somebody is told who asks a server that answers like this and takes 64 bytes, and what the server was asked.
    async fn told(answer: &str) -> (io::Result<Answer>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("somebody asks");
            let mut request = [0; 256];
            let bytes = stream.read(&mut request).await.expect("a request");
            // Who has read enough is gone.
            let _ = stream.write_all(answer.as_bytes()).await;
            String::from_utf8_lossy(&request[..bytes]).into_owned()
        };
        tokio::join!(get(address, "/page", 64), serve)
    }

    #[tokio::test]
    async fn whole_answers_are_read_and_others_named() {
        let (answer, asked) = told("HTTP/1.1 503 No\r\nContent-LENGTH: 2\r\n\r\nno").await;
        let answer = answer.expect("HTTP");
        assert_eq!((answer.code, &*answer.text()), (503, "no"));
        assert!(asked.starts_with("GET /page HTTP/1.0\r\n"), "{asked}");
        let (answer, _) = told("HTTP/1.0 200 OK\r\n\r\n\r\n\r\n").await;
        assert_eq!(answer.expect("HTTP").body, b"\r\n\r\n");
        let long = format!("HTTP/1.0 200 OK\r\n\r\n{}", "x".repeat(99));
        for (wrong, why) in [
            ("", "not HTTP"),
            ("\0\u{7f}", "not HTTP"),
            ("SSH-2.0\r\n\r\n", "not HTTP"),
            ("HTTP/1.0 many\r\n\r\n", "not HTTP"),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nno",
                "broke off",
            ),
            (&long, "more than 64 bytes"),
        ] {
            let error = told(wrong).await.0.expect_err(wrong).to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
