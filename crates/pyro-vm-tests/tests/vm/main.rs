//! Tests that boot real VMs. They fail where VMs cannot run, with what `pyro doctor` has to say.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod guest;

mod guest_kernel;

mod network;

mod network_options;

mod traffic;

mod guest_files;

mod internet;

mod environments;

mod streams;

mod outcomes;

mod live;

mod lifecycle;

mod logs;

mod terminal;

mod crash;

mod stampede;

mod hostile;

mod hostile_agent;

mod hostile_flood;

mod flood;

mod interruption;

mod leftovers;

mod isolation;

mod confinement;

mod templates;

mod spares;

mod demo;

mod demo_ollama;

mod host_compat;

mod accelerator;

mod user;

mod documents;
