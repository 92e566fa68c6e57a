//! What the three environments hold.

use pyro_vm_tests::{BASE, BUILD, DEFAULT, Host};

/// `debian:12-base` is what every VM of it has to read. It is 63 MB.
const BASE_BYTES_MAX: u64 = 80_000_000;

#[test]
fn the_base_environment_is_small_and_has_no_python() {
    let host = Host::new();
    let entry = host.pyro(&["env", "inspect", "--json", BASE]).outcome().json();
    let bytes = entry["rootfs_bytes"].as_u64().unwrap();
    assert!(bytes <= BASE_BYTES_MAX, "{bytes}");
    host.shell("! command -v python3; ! command -v git; ! command -v gcc");
}

#[test]
fn packages_can_be_managed() {
    let guest = Host::new().shell("apt-get --version; dpkg --status bash; dpkg --audit");
    assert!(guest.starts_with("apt 2."), "{guest}");
    assert!(guest.contains("Status: install ok installed"), "{guest}");
}

#[test]
fn the_default_environment_has_git_python_and_curl() {
    let script = "
        git init --quiet repository && cd repository
        git -c user.name=a -c user.email=a@b commit --quiet --allow-empty --message first
        git log --format=%s
        python3 -c 'import json, sqlite3, ssl; print(6 * 7)'
        echo served > file && curl --silent file://$PWD/file";
    let host = Host::new();
    let outcome = host.run_in(DEFAULT, &[], &["sh", "-ec", script]).outcome();
    assert_eq!(outcome.success(), "first\n42\nserved\n");
}

#[test]
fn the_build_environment_compiles_and_runs_a_program() {
    let script = r#"
        cat > main.c <<'END'
#include <stdio.h>
int main(void) { puts("built here"); }
END
        printf '%s\n' 'cmake_minimum_required(VERSION 3.18)' 'project(p C)' \
            'add_executable(p main.c)' > CMakeLists.txt
        cmake -S . -B build > /dev/null
        make --silent --directory build > /dev/null
        ./build/p
        gcc -O2 -o q main.c && ./q"#;
    let host = Host::new();
    let outcome = host.run_in(BUILD, &[], &["sh", "-ec", script]).outcome();
    assert_eq!(outcome.success(), "built here\nbuilt here\n");
}
