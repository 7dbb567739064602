//! Configuration files and environment variables, right and wrong ones.

use crate::support::{Place, Run, command, ravel};

const GOOD: &str = "server_name = \"example.org\"\nlisten.http = \"127.0.0.1:0\"\n";

fn check_file(text: &str, variables: &[(&str, &str)]) -> Run {
    let place = Place::new();
    let file = place.file("r.toml", text);
    let mut command = command(&["config", "--check", &file]);
    let mut run: Run = command.envs(variables.iter().copied()).output().unwrap().into();
    run.stderr = run.stderr.replace(&file, "r.toml");
    run
}

#[test]
fn the_example_can_be_used() {
    let place = Place::new();
    let example = ravel(&["config", "--example"]).ok();
    let file = place.file("example.toml", example.replace("#http =", "http ="));
    assert!(ravel(&["config", "--check", &file]).ok().contains("is in order"));
}

/// Every key that the test suite's harness writes.
#[test]
fn sytest_configuration_is_accepted() {
    check_file(
        r#"
        server_name = "127.0.0.1:18800"
        public_base_url = "https://127.0.0.1:18800"
        signing_key = "/hs/signing.key"

        [listen]
        https = "127.0.0.1:18800"
        http = "127.0.0.1:18801"
        tls_certificate = "/hs/tls.crt"
        tls_private_key = "/hs/tls.key"

        [database]
        backend = "rocksdb"
        path = "/hs/db"

        [media]
        path = "/hs/media"
        max_upload_size = 10485760

        [log]
        level = "info"
        file = "/hs/ravel.log"

        [registration]
        enabled = true
        guests = true
        shared_secret = "reg_secret"
        cheap_password_hashes = true

        [rate_limits]
        enabled = false

        [federation]
        enabled = true
        ca_certificates = ["/keys/ca.crt"]
        verify_certificates = true
        allow_private_addresses = true

        [outbound]
        verify_certificates = false
        allow_private_addresses = true

        [rooms]
        default_version = "10"
        public_directory_without_auth = true
        public_directory_over_federation = true
        aliases_require_membership = false
        allow_publishing = true

        [url_previews]
        enabled = true

        [application_services]
        files = ["/hs/appserv-0.yaml", "/hs/appserv-1.yaml"]

        [recaptcha]
        verify_url = "https://127.0.0.1:18810/recaptcha/api/siteverify"
        public_key = "sytest_recaptcha_public_key"
        private_key = "sytest_recaptcha_private_key"

        [email]
        smtp_host = "127.0.0.1"
        smtp_port = 18811
        from = "ravel@localhost"

        [cas]
        server_url = "https://127.0.0.1:18810/cas"
        service_url = "https://127.0.0.1:18800"
        "#,
        // Variables of programs around the server are not its own.
        &[("RAVEL_BIN", "ravel"), ("RAVEL_BACKEND", "x"), ("RAVEL_LOG", "info"), ("RAVEL_ROOM_VERSION", "10")],
    )
    .ok();
}

#[test]
fn mistakes_in_a_file_are_told_with_their_place() {
    let check = |text: &str, messages: &[&str]| {
        let run = check_file(&format!("{GOOD}{text}"), &[]).fails(2, messages);
        assert_eq!(run.stderr.lines().count(), messages.len(), "{}", run.stderr);
    };
    check("servername = \"a\"", &["r.toml:3: servername: there is no such key; the nearest is server_name"]);
    check("[databse]\n", &["r.toml:3: databse: there is no such section; the nearest is database"]);
    check("[log]\n\nlevl = \"info\"", &["r.toml:5: log.levl: there is no such key; the nearest is log.level"]);
    check("backend = \"sled\"", &["r.toml:3: backend: there is no such key; the nearest is database.backend"]);
    check("log = \"info\"", &["r.toml:3: log: it is a section: write [log]"]);
    check(
        "[database]\npfad = \"x\"\n[media]\nmax_upload_bytes = 1",
        &[
            "r.toml:4: database.pfad: there is no such key; the nearest is database.path",
            "r.toml:6: media.max_upload_bytes: there is no such key; the nearest is",
        ],
    );
    check("[log]\nlevel = 3", &["r.toml:4: log.level: expected a string, found a number"]);
    check("[log]\nlevel = \"verbose\"", &["r.toml:4: log.level: \"verbose\" is none of \"off\", \"error\", \"warn\""]);
    check(
        "[registration]\nenabled = \"yes\"",
        &["r.toml:4: registration.enabled: expected a boolean, found the string \"yes\""],
    );
    check("[rooms]\ndefault_version = \"13\"", &["r.toml:4: rooms.default_version: \"13\" is not a room version"]);
    check("[rooms]\ndefault_version = 10", &["r.toml:4: rooms.default_version: expected a string"]);
    check(
        "public_base_url = \"matrix.org\"",
        &["r.toml:3: public_base_url: \"matrix.org\" is not an address that begins with https://"],
    );
    check("[limits]\nconnections_max = 0", &["r.toml:4: limits.connections_max: 0 is not between 1 and 1000000"]);
    check(
        "[limits]\nconnections_max = -1",
        &["r.toml:4: limits.connections_max: expected a whole number, found a negative number"],
    );
    check(
        "[database]\nbackend = \"mysql\"",
        &["r.toml:4: database.backend: \"mysql\" is none of \"rocksdb\", \"sled\""],
    );
    check("[database]\nurl = \"postgres://a\"", &["r.toml:4: database.url: it is for the backend postgres only"]);
    check(
        "[federation]\ndenied_verify_keys = [\"AA\"]",
        &["r.toml:4: federation.denied_verify_keys: \"AA\" is not the base64 of 32 bytes"],
    );
    for name in ["", "evil.org:8448", "https://evil.org", "evil.org, other.org"] {
        check(
            &format!("[federation]\ndenied_servers = [\"*.evil.org\", \"[::1]\", {name:?}]"),
            &[&format!("r.toml:4: federation.denied_servers: {name:?} is no server name without port")],
        );
    }
    check(
        "[federation]\nretry_seconds_max = 4",
        &["r.toml:4: federation.retry_seconds_max: 4 is less than federation.retry_seconds_min"],
    );
    check("[federation]\nca_certificates = \"a\"", &["r.toml:4: federation.ca_certificates: expected"]);
    check(
        "[recaptcha]\npublic_key = \"a\"",
        &["recaptcha.verify_url: it is missing", "recaptcha.private_key: it is missing"],
    );
    check(
        "[email]\nfrom = \"a\"",
        &["r.toml:3: email.smtp_host: it is missing, and email.from is of no use without it"],
    );
    check("[log]\nlevel = \n", &["r.toml:4: "]);
    check("[metrics]\nlisten = \"localhost\"", &["r.toml:4: metrics.listen: invalid socket address"]);
}

#[test]
fn what_is_missing_is_told() {
    check_file("", &[]).fails(2, &["r.toml: server_name: it is missing"]);
    check_file("server_name = \"a\"", &[]).fails(2, &["r.toml: listen: the server would listen nowhere"]);
    check_file("server_name = \"a b\"", &[]).fails(2, &["r.toml:1: server_name: \"a b\" is not a valid server name"]);
    check_file("server_name = \"a\"\n[listen]\nhttps = \"127.0.0.1:1\"", &[]).fails(
        2,
        &["r.toml:2: listen.tls_certificate: it is missing", "r.toml:2: listen.tls_private_key: it is missing"],
    );
    check_file("server_name = \"a\"\n[listen]\nhttp = \"127.0.0.1:1\"\ntls_certificate = \"x\"", &[])
        .fails(2, &["r.toml:4: listen.tls_certificate: it is of no use without listen.https"]);
    check_file(&format!("{GOOD}metrics.listen = \"127.0.0.1:1\"\n"), &[("RAVEL_LISTEN__HTTP", "127.0.0.1:1")])
        .fails(2, &["r.toml:3: metrics.listen: it is the same address as listen.http"]);
    ravel(&["config", "--check", "/no/file"]).fails(2, &["/no/file: can't be read"]);
    ravel(&["serve", "--config", "/no/file"]).fails(2, &["/no/file: can't be read"]);
    ravel(&["config"]).fails(2, &["--example"]);
}

#[test]
fn sc_255_secrets_that_everybody_knows_are_refused_and_none_is_shown() {
    let check = |secret: &str, message: &str| {
        let run = check_file(&format!("{GOOD}registration.shared_secret = \"{secret}\"\n"), &[]);
        let run = run.fails(2, &[&format!("r.toml:3: registration.shared_secret: {message}")]);
        assert!(!run.stderr.contains(secret), "{}", run.stderr);
    };
    check("ChangeMe", "everybody can guess it");
    check("a long random text", "everybody can guess it");
    check("s3cr3t", "it is shorter than 8 characters");
    let run = check_file(&format!("{GOOD}registration.shared_secret = 1234509876\n"), &[]);
    let run = run.fails(2, &["r.toml:3: registration.shared_secret: expected a string, found a number"]);
    assert!(!run.stderr.contains("12345"), "{}", run.stderr);
}

#[test]
fn environment_variables_override_the_file() {
    let check = |variables: &[(&str, &str)], message: &str| {
        check_file(GOOD, variables).fails(2, &[message]);
    };
    check(
        &[("RAVEL_DATABASE__BAKEND", "sled")],
        "environment variable RAVEL_DATABASE__BAKEND: there is no such key; the nearest is RAVEL_DATABASE__BACKEND",
    );
    check(&[("RAVEL_DATABASE_BACKEND", "sled")], "the nearest is RAVEL_DATABASE__BACKEND");
    check(&[("RAVEL_SERVERNAME", "a")], "the nearest is RAVEL_SERVER_NAME");
    check(
        &[("RAVEL_NO__SUCH", "a")],
        "environment variable RAVEL_NO__SUCH: there is no such key; the nearest is RAVEL_",
    );
    check(
        &[("RAVEL_SERVER_NAME", "a b")],
        "environment variable RAVEL_SERVER_NAME: \"a b\" is not a valid server name",
    );
    check(
        &[("RAVEL_RATE_LIMITS__ENABLED", "no")],
        "environment variable RAVEL_RATE_LIMITS__ENABLED: expected a boolean",
    );
    check(
        &[("RAVEL_LIMITS__CONNECTIONS_MAX", "0")],
        "environment variable RAVEL_LIMITS__CONNECTIONS_MAX: 0 is not between",
    );
    check(&[("RAVEL_FEDERATION__CA_CERTIFICATES", "a")], "RAVEL_FEDERATION__CA_CERTIFICATES: expected");
    check_file(
        "server_name = 7\n",
        &[
            // They mend what is wrong in the file, too.
            ("RAVEL_SERVER_NAME", "10"),
            ("RAVEL_LISTEN__HTTP", "127.0.0.1:0"),
            // Strings need no quotes, whatever they look like.
            ("RAVEL_ROOMS__DEFAULT_VERSION", "10"),
            ("RAVEL_EMAIL__SMTP_PORT", "2525"),
            ("RAVEL_RATE_LIMITS__ENABLED", "false"),
            ("RAVEL_FEDERATION__CA_CERTIFICATES", "[\"a\", \"b\"]"),
        ],
    )
    .ok();
}
