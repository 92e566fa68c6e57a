//! The agent: PID 1 of every guest.
//!
//! ```text
//!   boot ──► wait for the host ──► identity ──► runs … ──► power off
//!                  ▲  frozen here as a template: nothing runs, no timer is set
//! ```
//!
//! What the host says is trusted; the commands are not. Whatever they do (fill the memory, fork
//! without end, flood their output), the agent goes on listening.

mod farewell;

mod boot;

mod devices;

mod root;

mod network;

mod agent;

mod readiness;

mod port;

mod conversation;

mod identity;

mod files;

mod run;

mod command;

mod streams;

mod output;

mod input;

mod processes;

mod cgroup;

mod leftover;

mod console;

mod sys;

use crate::agent::Agent;
use crate::boot::Boot;

fn main() {
    if !rustix::process::getpid().is_init() {
        // It would mount over and kill whatever it finds.
        console::line(
            "this is the first process of a virtual machine, and no program to start elsewhere",
        );
        return;
    }
    live();
    farewell::restart();
}

/// From boot to the last words.
fn live() {
    let (boot, port) = match Boot::open_port() {
        Ok(opened) => opened,
        Err(error) => return console::report(&error),
    };
    let booted = match boot.finish() {
        Ok(booted) => booted,
        Err(error) => return farewell::fail_before_greeting(port, console::chain(&error)),
    };
    let (mut agent, scratch) = Agent::new(port, booted);
    let served = agent.serve();
    let port = agent.into_port();
    match served {
        Ok(()) => farewell::part(port, &scratch),
        Err(error) => farewell::fail(port, console::chain(&error)),
    }
}
