//! Clients that are slow on purpose, or ask for more than they take: it costs the node a bounded amount of memory, and the
//! others nothing. They come from an address of their own.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use axum::http::{Request, Version};
use bytes::{BufMut as _, Bytes, BytesMut};
use flotilla_harness::{Cluster, PATIENCE, Plan, Split};
use flotilla_proto::v1;
use futures_util::future::{join_all, poll_fn};
use h2::client::{Builder, SendRequest};
use tokio::net::TcpSocket;

use super::hostile::unnoticed;

/// Where they come from.
const ABUSER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 99, 0, 1));
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No frame has this as its payload: the settings of a client without wishes.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// What an attack may cost in memory beside what the node needs anyway.
const COST_BYTES_MAX: u64 = 256 << 20;

fn cluster(settings: &[(&'static str, &'static str)]) -> Cluster {
    Cluster::start(Plan {
        split: Split::At(vec!["m".to_owned()]),
        settings: settings.to_vec(),
        ..Plan::default()
    })
}

/// A connection from the abusers' address, past the proxies.
async fn connect(to: SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((ABUSER, 0).into()).expect("this machine's own");
    socket.connect(to).await.expect("the node listens")
}

fn connect_blocking(cluster: &Cluster) -> TcpStream {
    let stream = cluster.block_on(connect(cluster.direct_address(0)));
    let stream = stream.into_std().expect("a socket");
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time");
    stream
}

/// Reads until the node ends the connection.
fn read_to_end(stream: &mut TcpStream) -> Duration {
    let begin = Instant::now();
    let mut bytes = [0; 4096];
    // A reset is an end as well.
    while let Ok(1..) = stream.read(&mut bytes) {}
    begin.elapsed()
}

fn refusals(cluster: &Cluster, reason: &str) -> f64 {
    let name = format!("flotilla_connection_refused_total{{port=\"clients\",reason=\"{reason}\"}}");
    cluster.metric(0, &name)
}

#[test]
fn many_connections_that_say_nothing_or_little_take_nobody_elses_place() {
    let cluster = cluster(&[
        ("limits.connections_per_address", "40"),
        ("limits.handshake_timeout", "2s"),
    ]);
    unnoticed(&cluster, |cluster| {
        // Says hello, and then never a word: not even that it lives.
        let mut hello = connect_blocking(cluster);
        hello.write_all(PREFACE).expect("written");
        hello.write_all(SETTINGS).expect("written");
        let mut others: Vec<TcpStream> = (0..60).map(|_| connect_blocking(cluster)).collect();
        cluster.until("those above the bound are refused", |cluster| {
            refusals(cluster, "address") >= 21.0
        });
        // Byte by byte; whom the node has shown out gets no further.
        for byte in &PREFACE[..6] {
            for stream in &mut others {
                let _ = stream.write_all(&[*byte]);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        for stream in &mut others {
            read_to_end(stream);
        }
        assert!(refusals(cluster, "slow") >= 39.0);
        // Its place is free again: pings that nobody answers end it.
        read_to_end(&mut hello);
        let open = "flotilla_connection_open{port=\"clients\"}";
        cluster.until("their places are free", |cluster| {
            cluster.metric(0, open) < 40.0
        });
    });
}

#[test]
fn headers_without_an_end_end_the_connection() {
    let mut cluster = cluster(&[]);
    let before = cluster.peak_memory(0);
    unnoticed(&cluster, |cluster| {
        let mut stream = connect_blocking(cluster);
        stream.write_all(PREFACE).expect("written");
        stream.write_all(SETTINGS).expect("written");
        // HEADERS of stream 1 and then CONTINUATION for ever, each a field that is written out.
        let mut field = vec![0, 1, b'x', 0x7f, 0x81, 0x7d];
        field.resize(6 + 16_000, b'y');
        let frame = |kind: u8| {
            let length = u32::try_from(field.len()).expect("short").to_be_bytes();
            let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
            frame.extend(&field);
            frame
        };
        let mut sent = stream.write_all(&frame(1));
        let mut frames = 1;
        while sent.is_ok() && frames < 20_000 {
            sent = stream.write_all(&frame(9));
            frames += 1;
        }
        assert!(
            frames < 20_000,
            "the node has taken {frames} frames of headers"
        );
        read_to_end(&mut stream);
    });
    let cost = cluster.peak_memory(0) - before;
    assert!(cost < COST_BYTES_MAX, "{cost} bytes");
}

/// A message as gRPC carries it.
fn framed(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("short"));
    message.encode(&mut bytes).expect("room");
    bytes.freeze()
}

fn call(method: &str) -> Request<()> {
    let mut request = Request::post(format!("http://node/flotilla.v1.Kv/{method}"));
    request = request.version(Version::HTTP_2);
    let request = request
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(()).expect("a request")
}

/// A connection of HTTP/2 on which everything that is legal can be done.
async fn http2(to: SocketAddr, window: u32) -> SendRequest<Bytes> {
    let connected = Builder::new()
        .initial_window_size(window)
        .handshake(connect(to).await)
        .await;
    let (client, connection) = connected.expect("HTTP/2");
    // Its end is seen by what is asked over it.
    tokio::spawn(async move { drop(connection.await) });
    client
}

#[test]
fn calls_that_are_taken_back_at_once_cost_nobody_anything() {
    let mut cluster = cluster(&[]);
    let before = cluster.peak_memory(0);
    unnoticed(&cluster, |cluster| {
        let address = cluster.direct_address(0);
        cluster.block_on(async {
            let get = framed(&v1::GetRequest {
                key: "key".into(),
                ..v1::GetRequest::default()
            });
            for _ in 0..4 {
                let mut client = http2(address, 65_535).await;
                for _ in 0..5_000 {
                    let Ok(ready) = client.clone().ready().await else {
                        // The node has had enough of it.
                        break;
                    };
                    client = ready;
                    let Ok((_, mut stream)) = client.send_request(call("Get"), false) else {
                        break;
                    };
                    let _ = stream.send_data(get.clone(), true);
                    stream.send_reset(h2::Reason::CANCEL);
                }
            }
        });
    });
    let cost = cluster.peak_memory(0) - before;
    assert!(cost < COST_BYTES_MAX, "{cost} bytes");
}

#[test]
fn requests_that_never_arrive_in_full_are_bounded_and_end() {
    let mut cluster = cluster(&[
        ("limits.unfinished_bytes", "64MiB"),
        ("limits.unfinished_timeout", "3s"),
    ]);
    let before = cluster.peak_memory(0);
    unnoticed(&cluster, |cluster| {
        let address = cluster.direct_address(0);
        cluster.block_on(async {
            let client = http2(address, 65_535).await;
            let calls = (0..300).map(|_| {
                let client = client.clone();
                async move {
                    let mut client = client.ready().await.expect("the connection stands");
                    let (answer, mut stream) =
                        client.send_request(call("Put"), false).expect("a call");
                    // 31 MiB are announced, and 1 MiB comes.
                    let mut begun = BytesMut::new();
                    begun.put_u8(0);
                    begun.put_u32(31 << 20);
                    begun.resize(1 << 20, 7);
                    let mut begun = begun.freeze();
                    while !begun.is_empty() {
                        stream.reserve_capacity(begun.len());
                        match poll_fn(|context| stream.poll_capacity(context)).await {
                            Some(Ok(room)) => {
                                let part = begun.split_to(room.min(begun.len()));
                                if stream.send_data(part, false).is_err() {
                                    break;
                                }
                            }
                            _ => break,
                        }
                    }
                    let answer = answer.await.ok()?;
                    let status = answer.headers().get("grpc-status")?.to_str().ok()?;
                    status.parse::<i32>().ok()
                }
            });
            let ends = join_all(calls).await;
            let with =
                |code: tonic::Code| ends.iter().filter(|end| **end == Some(code as i32)).count();
            let (late, refused) = (
                with(tonic::Code::DeadlineExceeded),
                with(tonic::Code::ResourceExhausted),
            );
            assert!((1..=64).contains(&late), "{late} were waited for: {ends:?}");
            assert!(refused > 100, "{refused} were refused: {ends:?}");
        });
    });
    let cost = cluster.peak_memory(0) - before;
    assert!(cost < COST_BYTES_MAX, "{cost} bytes");
}

#[test]
fn answers_that_nobody_takes_are_bounded_and_cost_their_connection() {
    let mut cluster = cluster(&[
        ("limits.unfinished_bytes", "64MiB"),
        ("limits.unfinished_timeout", "3s"),
    ]);
    let client = cluster.client(Default::default());
    cluster.block_on(async {
        for row in 0..80 {
            let value = vec![b'v'; 64 << 10];
            client
                .put(format!("row{row:02}"), value)
                .await
                .expect("written");
        }
    });
    let before = cluster.peak_memory(0);
    unnoticed(&cluster, |cluster| {
        let address = cluster.direct_address(0);
        cluster.block_on(async {
            // Each stream may bring one byte.
            let client = http2(address, 1).await;
            let scan = framed(&v1::ScanRequest {
                start: "row".into(),
                end: "rox".into(),
                consistency: v1::Consistency::Serializable.into(),
                ..v1::ScanRequest::default()
            });
            let calls = (0..200).map(|_| {
                let (client, scan) = (client.clone(), scan.clone());
                async move {
                    let mut client = client.ready().await.expect("the connection stands");
                    let (answer, mut stream) =
                        client.send_request(call("Scan"), false).expect("a call");
                    stream.send_data(scan, true).expect("a call");
                    let mut answer = answer.await.ok()?;
                    if let Some(status) = answer.headers().get("grpc-status") {
                        return status.to_str().ok()?.parse::<i32>().ok();
                    }
                    // One byte, and then nothing is said to have been taken.
                    let first = answer.body_mut().data().await?.ok()?;
                    assert_eq!(first.len(), 1);
                    let end = answer.body_mut().data().await;
                    assert!(
                        end.is_none_or(|end| end.is_err()),
                        "it brings more than it may"
                    );
                    None
                }
            });
            let ends = join_all(calls).await;
            let refused = ends
                .iter()
                .filter(|end| **end == Some(tonic::Code::ResourceExhausted as i32))
                .count();
            let cut = ends.iter().filter(|end| end.is_none()).count();
            assert!(refused > 100, "{refused} were refused: {ends:?}");
            assert!((1..=20).contains(&cut), "{cut} were waited for: {ends:?}");
            assert!(client.ready().await.is_err(), "the connection is gone");
        });
    });
    let cost = cluster.peak_memory(0) - before;
    assert!(cost < COST_BYTES_MAX, "{cost} bytes");
}
