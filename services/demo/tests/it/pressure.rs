//! Clients that mean no good, or know no better, beside one that does.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::sockopt,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::support::{Client, Service, World, exchange, get, get_kept, read_to_end, wait_until};

/// Raises this process' limit of open files, which its children inherit, as far as it goes.
fn descriptors() -> usize {
    let limits = getrlimit(Resource::Nofile);
    let _ =
        setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum });
    getrlimit(Resource::Nofile)
        .current
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX)
}

/// A client that pings on one kept connection and on new ones until it is told to stop, and gives
/// the time of each. Any failure fails the test.
fn good_client(
    client: Client,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
) -> thread::JoinHandle<Vec<Duration>> {
    thread::spawn(move || {
        let mut times = Vec::new();
        while !stop.load(Ordering::Acquire) {
            let began = Instant::now();
            let mut stream = client.connect(address).expect("a good client connects");
            assert_eq!(
                exchange(&mut stream, &get_kept("/ping")).expect("and is answered").2,
                "pong"
            );
            times.push(began.elapsed());
            thread::sleep(Duration::from_millis(5));
        }
        times
    })
}

/// The first bytes of a handshake: the client hello of a client that goes no further.
fn client_hello(client: &Client) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut connection =
        rustls::ClientConnection::new(Arc::clone(&client.config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a hello");
    hello
}

#[test]
fn a_good_client_is_served_beside_thousands_of_bad_ones_and_all_of_those_are_gone_in_the_end() {
    // As many as the machine allows: each takes a descriptor here and one in ponger.
    let share = (descriptors().saturating_sub(1000)).min(6000);
    let (silent, in_handshake, in_request) = (share * 4 / 6, share / 6, share / 6);
    let world = World::new();
    let config = world.ponger_config(
        "  handshakeTimeout: 8s\n  requestTimeout: 8s\n  idleTimeout: 8s\n  maxConnections: 20000\n",
    );
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, text.replace("level: debug", "level: info")).expect("written");
    let ponger = Service::start("ponger", &config);
    let address = ponger.address();
    let idle_descriptors = ponger.metric("process_open_fds");
    let stop = Arc::new(AtomicBool::new(false));
    let good = good_client(world.good_client(), address, Arc::clone(&stop));
    let client = world.good_client();
    let hello = client_hello(&client);

    let mut peak = 0.0;
    for _wave in 0..2 {
        let connect = || TcpStream::connect(address).expect("a connection");
        let mut held: Vec<TcpStream> = (0..silent).map(|_| connect()).collect();
        let mut dribblers: Vec<(TcpStream, Vec<u8>)> = Vec::new();
        for _ in 0..in_handshake {
            dribblers.push((connect(), hello.clone()));
        }
        let request = get_kept("/ping").into_bytes();
        let mut in_requests = Vec::new();
        for _ in 0..in_request {
            in_requests.push(client.connect(address).expect("a handshake"));
        }
        for number in 0..200 {
            let mut stream = connect();
            let garbage: &[u8] = match number % 4 {
                0 => b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
                1 => &[0xff; 512],
                2 => b"\x16\x03\x01\xff\xff",
                _ => b"\x15\x03\x03\x00\x02\x02\x28",
            };
            let _ = stream.write_all(garbage);
            held.push(stream);
        }
        peak = f64::max(peak, ponger.metric("ponger_connections"));
        // A byte now and then, until ponger has had enough of all of them.
        wait_until("all bad clients are gone", || {
            let step = request.len().min(hello.len());
            for at in 0..3.min(step) {
                for (stream, bytes) in &mut dribblers {
                    let _ = stream.write_all(&bytes[at..=at]);
                }
                for stream in &mut in_requests {
                    let _ = stream.write_all(&request[at..=at]).and_then(|()| stream.flush());
                }
            }
            thread::sleep(Duration::from_millis(500));
            // The good client's own connections remain.
            (ponger.metric("ponger_connections") <= 3.0).then_some(())
        });
        drop((held, dribblers, in_requests));
    }
    stop.store(true, Ordering::Release);
    let mut times = good.join().expect("the good client was served throughout");
    times.sort_unstable();
    eprintln!(
        "beside up to {peak} connections: {} good pings on new connections, median {:?}, p99 {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    assert!(
        peak >= f64::from(u32::try_from(silent).expect("few")) / 2.0,
        "there was no pressure: {peak}"
    );
    ponger.wait_for_metric("process_open_fds", |open| open <= idle_descriptors + 8.0);
    assert!(ponger.metric("process_resident_memory_bytes") < 512.0 * 1024.0 * 1024.0);
    assert!(ponger.log().len() < 20_000, "the log is not flooded: {} lines", ponger.log().len());
}

#[test]
fn requests_of_odd_shapes_harm_nobody() {
    let world = World::new();
    let ponger = world.ponger("  requestTimeout: 2s\n  idleTimeout: 2s\n");
    let client = world.good_client();
    let address = ponger.address();
    let send = |bytes: &[u8]| {
        let mut stream = client.connect(address).expect("a connection");
        // ponger may end the connection before everything is sent.
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let large_header =
        format!("GET /ping HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    assert!(!send(large_header.as_bytes()).contains("200 OK"));
    assert!(send(b"garbage\r\n\r\n").starts_with("HTTP/1.1 400"));
    assert!(send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").contains("pong"));
    // A body that is promised and does not come.
    let _ = send(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhello");
    // Both lengths at once: the way to smuggle requests.
    let smuggled = send(
        b"GET /ping HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert!(smuggled.matches("HTTP/1.1 200").count() <= 1, "{smuggled}");
    assert_eq!(client.get(address, "/ping").expect("an answer").2, "pong");
    ponger.wait_for_metric("ponger_connections", |open| open == 0.0);
}

#[test]
fn a_client_that_never_reads_is_gone_in_the_end() {
    let world = World::new();
    let ponger = world.ponger("  requestTimeout: 1s\n  idleTimeout: 1s\n");
    let mut stream = world.good_client().connect(ponger.address()).expect("a connection");
    stream.sock.set_write_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let requests = get_kept("/ping").repeat(100);
    // Until neither end takes any more.
    let before = ponger.metric("process_resident_memory_bytes");
    while stream.write_all(requests.as_bytes()).and_then(|()| stream.flush()).is_ok() {}
    let grown = ponger.metric("process_resident_memory_bytes") - before;
    assert!(grown < 8.0 * 1024.0 * 1024.0, "it costs {grown} bytes");
    ponger.wait_for_metric("ponger_connections", |open| open == 0.0);
    drop(stream);
}

#[test]
fn clients_that_never_read_do_not_keep_the_probes_waiting() {
    let world = World::new();
    let ponger = world.ponger("");
    let requests = get_kept("/metrics").repeat(100);
    let clients = (0..40).map(|_| {
        let mut stream = TcpStream::connect(ponger.admin()).expect("a connection");
        sockopt::set_socket_recv_buffer_size(&stream, 2048).expect("a small buffer");
        stream.set_nonblocking(true).expect("a socket");
        // Until neither end takes any more.
        while stream.write_all(requests.as_bytes()).is_ok() {}
        stream
    });
    let clients: Vec<_> = clients.collect();
    // Some of them have to end before it is its turn.
    let probe = TcpStream::connect(ponger.admin()).expect("a connection");
    probe.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
    let (status, ..) = exchange(probe, &get("/livez")).expect("an answer");
    assert_eq!(status, 200);
    drop(clients);
}

#[test]
fn a_second_request_that_dribbles_is_cut_off_too() {
    let world = World::new();
    let ponger = world.ponger("  requestTimeout: 1s\n  idleTimeout: 1s\n");
    let mut stream = world.good_client().connect(ponger.address()).expect("a connection");
    exchange(&mut stream, &get_kept("/ping")).expect("an answer");
    let mut sent = 0;
    let request = "GET /ping HTTP/1.1\r\nX: ".bytes().chain(std::iter::repeat_n(b'x', 100_000));
    for byte in request {
        if stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err() {
            break;
        }
        sent += 1;
        thread::sleep(Duration::from_millis(50));
        assert!(sent < 1000, "it is still served after {sent} bytes");
        if ponger.metric("ponger_connections") == 0.0 {
            break;
        }
    }
}

#[test]
fn connections_above_the_cap_are_shed_and_counted_and_said_once_a_second_at_most() {
    let world = World::new();
    let ponger = world.ponger("  maxConnections: 20\n");
    let address = ponger.address();
    let began = Instant::now();
    let held: Vec<_> =
        (0..20).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    ponger.wait_for_metric("ponger_connections", |open| open == 20.0);
    for _ in 0..200 {
        let mut shed = TcpStream::connect(address).expect("a connection");
        shed.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        // Closed at once, or reset.
        if let Err(error) = read_to_end(&mut shed) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it was not shed");
        }
    }
    assert!(ponger.metric("ponger_connections_shed_total") >= 200.0);
    ponger.wait_for("Too many connections, shedding");
    let lines = ponger.count("Too many connections, shedding");
    assert!(lines >= 1 && lines as u64 <= began.elapsed().as_secs() + 1, "{lines}");
    drop(held);
    // What waits to be accepted is still shed for a moment.
    let client = world.good_client();
    wait_until("it recovers", || {
        client.get(address, "/ping").ok().filter(|answer| answer.2 == "pong")
    });
}

#[test]
fn at_the_limit_of_descriptors_ponger_says_so_sheds_and_recovers() {
    let world = World::new();
    let ponger = Service::start_with_descriptors("ponger", &world.ponger_config(""), 64);
    let address = ponger.address();
    assert!(ponger.wait_for("Open files are limited").contains("limit=64"));
    let held: Vec<_> =
        (0..100).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    ponger.wait_for("Too many connections, shedding");
    // Operators still get in.
    assert_eq!(ponger.admin_get("/livez").0, 200);
    drop(held);
    // What waits to be accepted is still shed for a moment.
    let client = world.good_client();
    wait_until("it recovers", || {
        client.get(address, "/ping").ok().filter(|answer| answer.2 == "pong")
    });
}

#[test]
fn a_client_of_tls_1_2_that_renegotiates_gets_nothing_and_harms_nobody() {
    if !crate::support::has("openssl") {
        return;
    }
    let world = World::new();
    let ponger = world.ponger("  minTlsVersion: 1.2\n  requestTimeout: 2s\n");
    world.issue("client", &testkit::Leaf::pinger("test"));
    let mut openssl = std::process::Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &ponger.address().to_string(), "-CAfile"])
        .arg(world.path("ca.crt"))
        .arg("-cert")
        .arg(world.path("client/tls.crt"))
        .arg("-key")
        .arg(world.path("client/tls.key"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("openssl s_client");
    ponger.wait_for_metric("ponger_connections", |open| open == 1.0);
    // To openssl, a line of `R` is an order to renegotiate.
    openssl.stdin.as_mut().expect("its input").write_all(b"R\n").expect("written");
    let output = openssl.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
    assert_eq!(world.good_client().get(ponger.address(), "/ping").expect("an answer").2, "pong");
}
