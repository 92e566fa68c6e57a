//! Programs that people use a network with: curl, git, apt, pip; with archives made on the spot.

use std::path::Path;
use std::process::Command;

use pyro_vm_tests::internet::WWW_V4;
use pyro_vm_tests::{DEFAULT, Host, Internet, Outcome};

/// A script in a VM that trusts the authority of the test as its host does.
fn trusting(internet: &Internet<'_>, options: &[&str], script: &str) -> Outcome {
    let options = [&["--host-ca"], options].concat();
    let run = internet.run(&options, &["sh", "-ec", script]);
    run.variable("SSL_CERT_FILE", internet.authority().to_str().unwrap()).outcome()
}

/// Runs a script on the host.
#[track_caller]
fn on_host(directory: &Path, script: &str) {
    let mut shell = Command::new("sh");
    let output = shell.args(["-ec", script]).current_dir(directory).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{complaint}");
}

#[test]
fn curl_trusts_the_hosts_authorities_only_when_they_are_handed_over() {
    let host = Host::new();
    let internet = Internet::new(&host);
    fs_err::write(internet.www().join("page"), "a page\n").unwrap();
    let curl = "curl --silent --show-error https://www.example.com/page";
    let outcome = trusting(&internet, &[], &format!("{curl} --ipv4; {curl} --ipv6"));
    assert_eq!(outcome.success(), "a page\na page\n");
    let stranger = internet.run(&[], &["sh", "-c", curl]).outcome();
    // CURLE_PEER_FAILED_VERIFICATION
    assert_eq!(stranger.exit_code(), 60, "{stranger:#?}");
}

#[test]
fn git_clones_over_https_and_pushes() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let make = "git init --quiet --bare tool.git
        git -C tool.git config http.receivepack true
        git clone --quiet tool.git work 2>/dev/null
        cd work
        head -c 3000000 /dev/urandom > large
        echo first > file
        git add .
        git -c user.name=a -c user.email=a@example.com commit --quiet --message first
        git push --quiet origin HEAD:refs/heads/main
        git -C ../tool.git symbolic-ref HEAD refs/heads/main";
    on_host(&internet.git(), make);
    let script = "cd /root
        git clone --quiet https://git.example.com/git/tool.git
        cd tool
        cat file
        wc --bytes < large
        echo second > file
        git -c user.name=b -c user.email=b@example.com commit --quiet --all --message second
        git push --quiet";
    let outcome = trusting(&internet, &["--allow-host=git.example.com:443"], script);
    assert_eq!(outcome.success(), "first\n3000000\n");
    on_host(&internet.git(), "test \"$(git -C tool.git show main:file)\" = second");
}

#[test]
fn apt_updates_and_installs_from_an_archive() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let make = "mkdir -p tree/DEBIAN tree/usr/bin
        printf 'Package: pyro-hello\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: a <a@example.com>\\nDescription: hello\\n' > tree/DEBIAN/control
        printf '#!/bin/sh\\necho hello from a package\\n' > tree/usr/bin/pyro-hello
        chmod 755 tree/usr/bin/pyro-hello
        dpkg-deb --build --root-owner-group tree pyro-hello_1.0_all.deb >/dev/null
        rm -r tree
        apt-ftparchive packages . > Packages
        apt-ftparchive release . > Release";
    on_host(&internet.www(), make);
    for scheme in ["http", "https"] {
        let script = format!(
            "echo 'deb [trusted=yes] {scheme}://deb.example.com/ ./' > /etc/apt/sources.list
             rm -rf /etc/apt/sources.list.d/*
             apt-get --quiet=2 update
             apt-get --quiet=2 --yes install pyro-hello >/dev/null 2>&1
             pyro-hello"
        );
        let outcome = trusting(&internet, &[], &script);
        assert_eq!(outcome.success(), "hello from a package\n", "{scheme}: {outcome:#?}");
    }
}

#[test]
fn pip_installs_from_an_index() {
    let host = Host::new();
    let internet = Internet::new(&host);
    // Debian's Python comes without pip, which needs no installation.
    let make = r#"
python3 - <<'PYTHON'
import ensurepip, glob, os, shutil, sysconfig, zipfile
bundled = glob.glob(os.path.join(os.path.dirname(ensurepip.__file__), "_bundled", "pip-*.whl"))
system = glob.glob("/usr/share/python-wheels/pip-*.whl")
shutil.copy((bundled + system)[0], "pip.whl")
os.makedirs("simple/pyro-hello")
name = "pyro_hello-1.0-py3-none-any.whl"
with zipfile.ZipFile("simple/pyro-hello/" + name, "w") as wheel:
    wheel.writestr("pyro_hello.py", "print('hello from a wheel')\n")
    about = "pyro_hello-1.0.dist-info/"
    wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\nName: pyro-hello\nVersion: 1.0\n")
    wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(about + "RECORD", "pyro_hello.py,,\n")
with open("simple/pyro-hello/index.html", "w") as page:
    page.write(f"<a href='{name}'>{name}</a>")
PYTHON
"#;
    on_host(&internet.www(), make);
    let script = "cd /root
        curl --silent --show-error --remote-name https://pypi.example.com/pip.whl
        PYTHONPATH=pip.whl python3 -m pip install --quiet --break-system-packages --root-user-action=ignore \
            --disable-pip-version-check --target there --index-url https://pypi.example.com/simple pyro-hello
        PYTHONPATH=there python3 -m pyro_hello";
    let outcome = trusting(&internet, &["--allow-host=pypi.example.com:443"], script);
    assert_eq!(outcome.success(), "hello from a wheel\n", "{outcome:#?}");
}

#[test]
fn the_hosts_proxy_is_used_by_who_is_handed_it() {
    let host = Host::new();
    let internet = Internet::new(&host);
    fs_err::write(internet.www().join("page"), "a page\n").unwrap();
    // To a proxy a whole address is sent, which the server takes for a path that it has not.
    let script = "curl --silent --output /dev/null --write-out '%{http_code}' http://nowhere.example.net/page";
    let run = internet.run(&["--host-proxy"], &["sh", "-c", script]);
    let outcome = run.variable("http_proxy", "http://127.0.0.1:80").outcome();
    assert_eq!(outcome.success(), "404", "{outcome:#?}");
    let told = internet.told_inside();
    assert!(told.contains("http nowhere.example.net"), "{told}");
    // The proxy is open, and nothing else of the host.
    let run = internet.run(
        &["--host-proxy", "--json"],
        &["curl", "--silent", "--noproxy", "*", "http://host.pyro.internal:7/"],
    );
    let outcome = run.variable("http_proxy", "http://127.0.0.1:80").outcome();
    // CURLE_COULDNT_CONNECT
    assert_eq!(outcome.exit_code(), 7, "{outcome:#?}");
    assert_eq!(outcome.json()["network_refusals"][0]["reason"], "host_address");
}

#[test]
fn a_refusal_is_told_with_the_option_that_would_allow_it() {
    let host = Host::new();
    let internet = Internet::new(&host);
    let words = ["curl", "--silent", "http://10.1.2.3/"];
    let outcome = internet.run(&[], &words).outcome();
    assert_eq!(outcome.exit_code(), 7, "{outcome:#?}");
    let told = &outcome.stderr;
    assert!(told.contains("10.1.2.3:80") && told.contains("--allow-cidr"), "{told}");
    let options = ["--allow-cidr=10.1.2.3:80", "--allow-public"];
    let outcome = internet.run(&options, &words).outcome();
    outcome.success();
    assert!(!outcome.stderr.contains("--allow"), "{outcome:#?}");
    // Without a network there is nothing to refuse.
    let none = internet.around(host.run_in(DEFAULT, &[], &["curl", &format!("http://{WWW_V4}/")]));
    let outcome = none.outcome();
    assert_eq!(outcome.exit_code(), 7, "{outcome:#?}");
    assert!(!outcome.stderr.contains("--allow"), "{outcome:#?}");
}
