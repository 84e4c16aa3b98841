//! The TCP listener with TLS and users: who is let in and how often that is asked, what they may do,
//! what it refuses to start without, and what a port is told that does not speak as it should.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas::digest::Algorithm;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tests::tls::Certificate;
use tests::v2::{Door, Tls, ask, case, delete, digest, get, head, loopback, post, push};
use tests::{Daemon, Home, run};

use super::{Image, steps};

/// Users, and the passwords whose hashes stand in [`USERS`].
pub(super) const ADA: (&str, &str) = ("ada", "correct horse");
pub(super) const BOB: (&str, &str) = ("bob", "battery staple");

/// Made by crypt(3) of libxcrypt at cost 5, in both of its spellings.
const USERS: &str = "ada:$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n\
                     bob:$2b$05$abcdefghijklmnopqrstuumjewjQVmxxbBHy234HdGTOAqOuVnhhy\n";

/// A daemon with users over TLS.
pub(super) struct Front {
    pub(super) daemon: Daemon,
    pub(super) certificate: Certificate,
}

/// A certificate of a test's.
pub(super) fn certificate(folder: &Path, name: &str) -> Certificate {
    Certificate::make(folder, name)
}

/// What is said in `Authorization`.
pub(super) fn basic((name, password): (&str, &str)) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// A daemon whose listener has users, and this much for those who are anonymous; its own user may do
/// everything over the socket, whatever the rules in `more` say of others.
#[track_caller]
pub(super) fn front(anonymous: &str, more: &str) -> Front {
    let home = Home::new("");
    let certificate = certificate(home.folder(), "tls");
    let users = home.folder().join("users");
    std::fs::write(&users, USERS).unwrap();
    let own = nix::unistd::Uid::effective().as_raw();
    let rule = match more.contains("[[policy]]") {
        true => format!(
            "[[policy]]\nuid = {own}\nworkspaces = [\"*\"]\n\
             may = [\"put\", \"read\", \"retire\", \"admin\"]\n"
        ),
        false => String::new(),
    };
    home.configure(&format!(
        "[registry]\nlisten = \"127.0.0.1:0\"\ntls_certificate = {:?}\ntls_key = {:?}\n\
         users = {users:?}\nallow_anonymous = {anonymous}\n{more}{rule}",
        certificate.certificate, certificate.key
    ));
    let daemon = home.start();
    tests::wait_until("the log says where", || loopback(&daemon).is_some());
    Front { daemon, certificate }
}

impl Front {
    fn address(&self) -> String {
        // What a refused login logs has no address of ours in it.
        loopback(&self.daemon).expect("an address")
    }

    fn says(&self, authorization: Option<String>) -> Door {
        let (address, certificate) = (self.address(), self.certificate.clone());
        Door::Tls(Tls { address, certificate, authorization })
    }

    fn user(&self, user: (&str, &str)) -> Door {
        self.says(Some(basic(user)))
    }

    fn nobody(&self) -> Door {
        self.says(None)
    }

    fn socket(&self) -> Door {
        Door::Socket(self.daemon.home().socket())
    }

    fn counted(&self, name: &str) -> u64 {
        let answer = self.daemon.connect().get("/v1/metrics");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.expect(name).parse().expect(name)
    }
}

const CHALLENGE: &str = r#"Basic realm="bonded", charset="UTF-8""#;

#[test]
fn only_users_are_let_in_and_have_the_rights_of_their_rules() {
    let front = front(
        "false",
        "[[policy]]\nregistry_user = \"ada\"\nworkspaces = [\"shown\", \"w*-tls\"]\n\
         may = [\"put\", \"read\", \"retire\"]\n\
         [[policy]]\nregistry_user = \"bob\"\nworkspaces = [\"shown\"]\nmay = [\"read\"]\n\
         [[policy]]\nregistry_user = \"bob\"\nworkspaces = [\"drop\"]\nmay = [\"put\"]\n\
         [[policy]]\nanonymous = true\nworkspaces = [\"*\"]\nmay = [\"read\"]\n",
    );
    let image = Image::new(Algorithm::Sha256, "over TLS");
    let layer = digest(Algorithm::Sha256, &image.layer);
    front.socket().run(&[case("the keeper", image.push("hidden/app", "1"))]);
    front.user(ADA).run(&[
        case("everything", steps([image.push("{r}", "1"), image.push("shown/app", "1")])),
        case(
            "hosts and pages",
            [
                get("/v2/").with("host", "registry.example"),
                get("/v2/").with("origin", "https://registry.example").fails(403, "DENIED"),
            ],
        ),
        case(
            "what is hidden and what is not there read the same",
            [
                get("/v2/hidden/app/manifests/1").fails(404, "NAME_UNKNOWN"),
                get("/v2/nowhere/app/manifests/1").fails(404, "NAME_UNKNOWN"),
                push("hidden/app", &layer, &image.layer).fails(404, "NAME_UNKNOWN"),
            ],
        ),
        case("its own end", [delete("/v2/{r}/manifests/1").is(404)]),
    ]);
    assert_eq!(front.user(ADA).ask(&get("/v1/health")).status, 404);
    front.user(BOB).run(&[case(
        "a reader",
        [
            get("/v2/").json("", serde_json::json!({})),
            get("/v2/shown/app/manifests/1").gives(image.bytes()),
            push("shown/app", &layer, &image.layer).fails(403, "DENIED"),
            image.manifest("shown/app", "2").fails(403, "DENIED"),
            delete("/v2/shown/app/manifests/1").fails(403, "DENIED"),
            get("/v2/hidden/app/manifests/1").fails(404, "NAME_UNKNOWN"),
            // Who may only bring learns nothing of what is there.
            push("drop/app", &layer, &image.layer),
            head(format!("/v2/drop/app/blobs/{layer}")).is(404),
        ],
    )]);
    // What a rule gives to those who are anonymous is theirs only where they are let in.
    front.nobody().run(&[case(
        "nobody",
        [
            get("/v2/").fails(401, "UNAUTHORIZED").eq("www-authenticate", CHALLENGE),
            head("/v2/").is(401).eq("www-authenticate", CHALLENGE),
            get("/v2/shown/app/manifests/1").fails(401, "UNAUTHORIZED"),
            push("shown/app", &layer, &image.layer).fails(401, "UNAUTHORIZED"),
            ask("OPTIONS", "/v2/shown/app/tags/list").fails(401, "UNAUTHORIZED"),
            get("/v2/").with("authorization", "Bearer x").fails(401, "UNAUTHORIZED"),
            get("/v2/").with("authorization", "Basic Og==").fails(401, "UNAUTHORIZED"),
            get("/v2/").with("authorization", "Basic ???").fails(401, "UNAUTHORIZED"),
            get("/v2/")
                .with("authorization", basic(ADA))
                .with("authorization", basic(BOB))
                .fails(401, "UNAUTHORIZED"),
        ],
    )]);
}

#[test]
fn a_wrong_password_is_answered_late_and_told_to_nobody() {
    let front = front("false", "");
    for (said, is_right) in [
        (ADA, true),
        (("ada", "incorrect horse"), false),
        (("password typed as a name", "x"), false),
        (BOB, true),
    ] {
        let begun = Instant::now();
        let answer = front.user(said).ask(&get("/v2/"));
        assert_eq!(answer.status, if is_right { 200 } else { 401 }, "{said:?}: {answer:?}");
        // Whatever the machine is doing, a failure takes a second at least.
        assert!(is_right || begun.elapsed() >= Duration::from_secs(1), "{said:?}");
    }
    let checked = front.counted("bonded_password_checks_total");
    assert_eq!((checked, front.counted("bonded_logins_refused_total")), (4, 2));
    let logged = || front.daemon.home().logged();
    tests::wait_until("both are logged", || logged().matches("password is wrong").count() == 2);
    for secret in ["horse", "typed as a name", STANDARD.encode("ada:").trim_end_matches('=')] {
        assert!(!logged().contains(secret), "{secret}");
    }
    assert!(logged().contains("from=127.0.0.1 user=\"ada\""), "{}", logged());
}

#[test]
fn those_who_say_nothing_may_read_where_that_is_said() {
    let front = front("\"read\"", "");
    let image = Image::new(Algorithm::Sha256, "for everybody");
    let layer = digest(Algorithm::Sha256, &image.layer);
    front.user(ADA).run(&[case("a user", image.push("ci/app", "1"))]);
    let nobody = front.nobody();
    nobody.run(&[case(
        "nobody",
        [
            get("/v2/").fails(401, "UNAUTHORIZED").eq("www-authenticate", CHALLENGE),
            get("/v2/ci/app/manifests/1").gives(image.bytes()),
            get("/v2/ci/app/manifests/1").with("authorization", "Basic Og==").gives(image.bytes()),
            get(format!("/v2/ci/app/blobs/{layer}")).gives(&*image.layer),
            get("/v2/ci/app/tags/list"),
            get("/v2/nowhere/app/tags/list").fails(404, "NAME_UNKNOWN"),
            push("ci/app", &layer, &image.layer)
                .fails(401, "UNAUTHORIZED")
                .eq("www-authenticate", CHALLENGE),
            post(format!("/v2/ci/app/blobs/uploads/?mount={layer}&from=ci/app"))
                .fails(401, "UNAUTHORIZED"),
            image.manifest("ci/app", "2").fails(401, "UNAUTHORIZED"),
            delete("/v2/ci/app/manifests/1").fails(401, "UNAUTHORIZED"),
        ],
    )]);
    // A wrong password is not the same as none.
    let wrong = front.user(("ada", "x")).ask(&get("/v2/ci/app/manifests/1"));
    assert_eq!((wrong.status, wrong.code()), (401, "UNAUTHORIZED".to_owned()));
}

#[test]
fn a_password_is_checked_once_for_a_connection() {
    let front = front("\"read\"", "");
    let checks = || front.counted("bonded_password_checks_total");
    let mut line = front.user(ADA).open();
    for _ in 0..10 {
        assert_eq!(line.ask(&get("/v2/")).status, 200);
    }
    assert_eq!(checks(), 1);
    // Another user on the same connection is another one, and so is the first one after it.
    let as_bob = get("/v2/").with("authorization", basic(BOB));
    for (step, n_checks) in [(as_bob.clone(), 2), (as_bob, 2), (get("/v2/"), 3), (get("/v2/"), 3)] {
        assert_eq!(line.ask(&step).status, 200);
        assert_eq!(checks(), n_checks);
    }
    assert_eq!(front.user(ADA).ask(&get("/v2/")).status, 200);
    assert_eq!(checks(), 4, "another connection");
    let mut nobody = front.nobody().open();
    assert_eq!(nobody.ask(&get("/v2/w/r/tags/list")).status, 404);
    assert_eq!(checks(), 4, "nothing said, nothing checked");
}

#[test]
fn users_and_certificate_are_read_anew_when_it_is_said() {
    let front = front("false", "");
    let users = front.daemon.folder().join("users");
    let reload = |says: &str| {
        let n = front.daemon.home().logged().matches(says).count();
        front.daemon.signal(Signal::SIGHUP);
        tests::wait_until(says, || front.daemon.home().logged().matches(says).count() > n);
    };
    let (mut ada, mut bob) = (front.user(ADA).open(), front.user(BOB).open());
    assert_eq!((ada.ask(&get("/v2/")).status, bob.ask(&get("/v2/")).status), (200, 200));

    // A file that makes no sense changes nothing.
    std::fs::write(&users, "ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n").unwrap();
    reload("stays as it was");
    assert_eq!(front.user(ADA).ask(&get("/v2/")).status, 200);
    // Neither does one that others could have written.
    std::fs::write(&users, USERS.lines().next().unwrap()).unwrap();
    std::fs::set_permissions(&users, PermissionsExt::from_mode(0o646)).unwrap();
    reload("stays as it was");
    assert_eq!(front.user(BOB).ask(&get("/v2/")).status, 200);
    std::fs::set_permissions(&users, PermissionsExt::from_mode(0o644)).unwrap();

    // Whoever is not in it any more is out, on an open connection too.
    std::fs::write(&users, USERS.lines().next().unwrap()).unwrap();
    let renewed = certificate(front.daemon.folder(), "tls");
    reload("were read anew");
    assert_eq!((ada.ask(&get("/v2/")).status, bob.ask(&get("/v2/")).status), (200, 401));
    let address = front.address();
    let connect = || TcpStream::connect(&address).unwrap();
    assert!(renewed.shake_hands(connect()).is_ok());
    assert!(Certificate::make(front.daemon.folder(), "other").shake_hands(connect()).is_err());
}

#[test]
fn a_greedy_user_leaves_everything_to_a_polite_one() {
    let front = front("false", "[limits]\nuploads_per_uid = 2\nconnections_per_uid = 3\n");
    let (greedy, polite) = (front.user(ADA), front.user(BOB));
    let begin = post("/v2/ci/app/blobs/uploads/");
    let begun: Vec<_> = (0..2).map(|_| greedy.ask(&begin)).collect();
    let refused = greedy.ask(&begin);
    assert_eq!((refused.status, refused.code()), (429, "TOOMANYREQUESTS".to_owned()));
    let own = polite.ask(&begin);
    assert_eq!(own.status, 202, "{own:?}");
    // An upload is its user's, and nobody else's.
    let location = |answer: &tests::v2::Answer| answer.headers["location"].clone();
    assert_eq!(polite.ask(&get(location(&begun[0]))).status, 404);
    assert_eq!(front.socket().ask(&get(location(&begun[0]))).status, 404);
    assert_eq!(greedy.ask(&get(location(&begun[0]))).status, 204);

    // Connections that are in the middle of something, as many as one may have.
    let mut held: Vec<_> = (0..3).map(|_| greedy.open()).collect();
    for (line, n) in held.iter_mut().zip(1..) {
        assert_eq!(line.ask(&get("/v2/")).status, 200);
        let half = ask("PUT", "/v2/ci/app/manifests/1").body("{").torn();
        line.ask(&half);
        let busy = || front.counted("bonded_connections");
        tests::wait_until("it is open", || busy() > n);
    }
    tests::wait_until("all of them are busy", || greedy.ask(&get("/v2/")).status == 429);
    let refused = greedy.ask(&get("/v2/"));
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert_eq!(polite.ask(&get("/v2/")).status, 200);
    drop(held);
    tests::wait_until("there is room again", || greedy.ask(&get("/v2/")).status == 200);
}

#[test]
fn who_speaks_no_tls_is_told_so_or_closed() {
    let front = front("false", "[timeouts]\nheader = \"500ms\"\n");
    let address = front.address();
    let say = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        // A reset says as clearly as an end that nobody listens.
        let _ = stream.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    };
    let told = say(b"GET /v2/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("https"), "{told}");
    for bytes in [&b""[..], b"\x16\x03\x01", b"\0\0\0\0", b"\x16\x03\x01\xff\xffgarbage", b"hello"]
    {
        assert!(!say(bytes).starts_with("HTTP/"), "{bytes:?}");
    }
    assert!(front.counted("bonded_tls_handshakes_failed_total") >= 5);

    // Only HTTP/1.1 is spoken; who offers nothing gets it.
    for (protocols, is_good) in [
        (&[&b"http/1.1"[..]][..], true),
        (&[b"h2", b"http/1.1"], true),
        (&[], true),
        (&[b"h2"], false),
    ] {
        let mut stream = TcpStream::connect(&address).unwrap();
        let mut client = front.certificate.client(protocols);
        let mut end = Ok((0, 0));
        while client.is_handshaking() && end.is_ok() {
            end = client.complete_io(&mut stream);
        }
        assert_eq!(end.is_ok(), is_good, "{protocols:?}: {end:?}");
        let spoken = client.alpn_protocol();
        assert!(spoken.is_none_or(|spoken| spoken == b"http/1.1"), "{protocols:?}: {spoken:?}");
    }
    assert_eq!(front.user(ADA).ask(&get("/v2/")).status, 200);
}

#[test]
fn it_does_not_start_without_what_it_needs() {
    let folder = tests::scratch();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(file(name), bytes).unwrap();
        file(name)
    };
    let good = certificate(folder.path(), "good");
    let other = certificate(folder.path(), "other");
    let [crt, key] = [good.certificate, good.key].map(|path| path.display().to_string());
    let other_key = other.key.display().to_string();
    let users = write("users", USERS.as_bytes());
    let open_users = write("open users", USERS.as_bytes());
    std::fs::set_permissions(&open_users, PermissionsExt::from_mode(0o646)).unwrap();
    let pipe = file("pipe");
    mkfifo(pipe.as_str(), Mode::S_IRWXU).unwrap();
    let open_key = write("open.key", &std::fs::read(&key).unwrap());
    std::fs::set_permissions(&open_key, PermissionsExt::from_mode(0o604)).unwrap();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = write("encrypted.key", encrypted.as_bytes());
    std::fs::set_permissions(&encrypted, PermissionsExt::from_mode(0o600)).unwrap();
    let torn = write("torn.crt", b"-----BEGIN CERTIFICATE-----\nAAAA\n");
    let nothing = write("nothing", b"");
    let md5 = write("md5", b"# x\nada:$apr1$9Cv/OMGj$tuFVB9bQjuYbDfC.9Wwuf1\n");
    let sha = write("sha", b"ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n");
    let plain = write("plain", b"ada:correct horse\n");
    let twice = write("twice", [USERS, USERS].concat().as_bytes());
    let dear = write("dear", USERS.replace("$05$", "$16$").as_bytes());
    let huge = write("huge", &vec![b'#'; (1 << 20) + 1]);
    let none = file("none");

    let (near, far) = ("127.0.0.1:5443", "192.0.2.7:5443");
    let tls = |listen: &str, crt: &str, key: &str| {
        format!("listen = {listen:?}\ntls_certificate = {crt:?}\ntls_key = {key:?}\n")
    };
    let all = |listen: &str, crt: &str, key: &str, users: &str| {
        format!("{}users = {users:?}\n", tls(listen, crt, key))
    };
    let with = |users: &str| all(near, &crt, &key, users);
    let anonymous = |text: String, how: &str| format!("{text}allow_anonymous = {how}\n");
    let plainly = |listen: &str| format!("listen = {listen:?}\n");
    for (registry, refused) in [
        // On loopback.
        (anonymous(plainly(near), "true"), None),
        (anonymous(plainly(near), "\"read\""), None),
        (plainly(near), Some("--allow-anonymous")),
        (with(&users), None),
        (format!("{}users = {users:?}\n", plainly(near)), Some("registry.users: passwords go")),
        (anonymous(tls(near, &crt, &key), "true"), None),
        (tls(near, &crt, &key), Some("--allow-anonymous")),
        // Anywhere else.
        (all(far, &crt, &key, &users), None),
        (all("0.0.0.0:5443", &crt, &key, &users), None),
        (all("[::]:5443", &crt, &key, &users), None),
        (anonymous(all(far, &crt, &key, &users), "\"read\""), None),
        (anonymous(all(far, &crt, &key, &users), "true"), Some("registry.allow_anonymous")),
        (anonymous(tls(far, &crt, &key), "\"read\""), Some("TLS and users")),
        (anonymous(plainly(far), "true"), Some("TLS and users")),
        (anonymous(plainly("0.0.0.0:5443"), "true"), Some("TLS and users")),
        (plainly(far), Some("TLS and users")),
        // Its files.
        (all(near, &none, &key, &users), Some("registry.tls_certificate: /")),
        (all(near, &nothing, &key, &users), Some("no PEM certificate")),
        (all(near, &torn, &key, &users), Some("registry.tls_certificate: /")),
        (all(near, &key, &key, &users), Some("no PEM certificate")),
        (all(near, &crt, &none, &users), Some("registry.tls_key: /")),
        (all(near, &crt, &nothing, &users), Some("registry.tls_key: /")),
        (all(near, &crt, &open_key, &users), Some("chmod")),
        (all(near, &crt, &encrypted, &users), Some("not encrypted")),
        (all(near, &crt, &other_key, &users), Some("it is not the key of")),
        (
            format!("listen = {near:?}\ntls_certificate = {crt:?}\nusers = {users:?}\n"),
            Some("registry.tls_key: "),
        ),
        (
            format!("listen = {near:?}\ntls_key = {key:?}\nusers = {users:?}\n"),
            Some("registry.tls_certificate: "),
        ),
        // Its users.
        (with(&none), Some("registry.users: /")),
        (with(folder.path().to_str().unwrap()), Some("no regular file")),
        (with(&pipe), Some("no regular file")),
        (with(&nothing), Some("no user in it")),
        (with(&open_users), Some("chmod o-w")),
        (with(&md5), Some("md5:2: ")),
        (with(&sha), Some("sha:1: ")),
        (with(&plain), Some("plain:1: ")),
        (with(&twice), Some("twice:3: ")),
        (with(&dear), Some("dear:1: ")),
        (with(&huge), Some("more than 1048576 bytes")),
        (anonymous(with(&users), "\"write\""), Some("bonded.toml:6: registry.allow_anonymous")),
    ] {
        let home = Home::new(&format!("[registry]\n{registry}"));
        let checked = run(home.bonded().arg("--check-config"));
        match refused {
            None => assert_eq!(checked.code, Some(0), "{registry}{}", checked.told()),
            Some(says) => {
                assert_eq!(checked.code(), Some(wire::Code::Config), "{}", checked.told());
                checked.says(&[says]);
            }
        }
        assert!(!home.store().exists(), "{registry}");
    }
}

#[test]
fn on_loopback_everybody_may_be_let_read_over_plain_http() {
    let config = "[registry]\nlisten = \"127.0.0.1:0\"\nallow_anonymous = \"read\"\n";
    let daemon = Daemon::with(config);
    tests::wait_until("the log says where", || loopback(&daemon).is_some());
    let image = Image::new(Algorithm::Sha256, "read by everybody");
    let doors = Door::of(&daemon);
    doors[0].run(&[case("the keeper", image.push("ci/app", "1"))]);
    // Nobody can say who it is there, so it is not asked to.
    doors[1].run(&[case(
        "everybody",
        [
            get("/v2/"),
            get("/v2/ci/app/manifests/1").gives(image.bytes()),
            image.manifest("ci/app", "2").fails(403, "DENIED").lacks("www-authenticate"),
            get("/v2/").with("host", "evil.example").fails(403, "DENIED"),
        ],
    )]);
}
