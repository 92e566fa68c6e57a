//! The tools' schemas. Limits and defaults are taken from the core and from the pins, so none can be wrong here.
//!
//! Every word of this costs each conversation of each client, so only what a name does not say is described. The schema
//! of a result also accepts the object of a failure: some clients check that one, too.

use std::sync::Arc;

use pyro_core::{CommandText, LogRequest, MemoryMib, Metadata, TimeToLive, Timeout, VcpuCount};
use rmcp::model::JsonObject;
use serde_json::{Value, json};

use crate::pins::Pins;
use crate::tool::Tool;

/// How much of each output stream a result holds where the call says nothing: what a model reads at once.
pub(crate) const OUTPUT_BYTES_DEFAULT: usize = 16 << 10;

/// How much of each output stream, or of a log, a result holds at most. A result has it twice, as text and as an
/// object, and some clients take no message over HTTP beyond 1 MiB.
pub(crate) const OUTPUT_BYTES_MAX: usize = 128 << 10;

const _: () = assert!(OUTPUT_BYTES_DEFAULT <= OUTPUT_BYTES_MAX);
const _: () = assert!(OUTPUT_BYTES_MAX <= LogRequest::BYTES_MAX);

/// What a tool takes.
pub(crate) fn input(tool: Tool, pins: &Pins) -> Arc<JsonObject> {
    let (properties, required): (Value, &[&str]) = match tool {
        Tool::Run => (merged(&[machine(pins), command(pins)]), &["environment", "command"]),
        Tool::Create => (
            merged(&[
                machine(pins),
                json!({ "metadata": {
                    "type": "object",
                    "additionalProperties": { "type": "string" },
                    "maxProperties": Metadata::ENTRIES_MAX,
                    "description": "Notes that vm_status shows",
                }}),
            ]),
            &["environment"],
        ),
        Tool::Exec => (merged(&[vm_id(), command(pins)]), &["vm_id", "command"]),
        Tool::Logs => (merged(&[vm_id(), log()]), &["vm_id"]),
        Tool::Start | Tool::Stop | Tool::Status | Tool::Delete | Tool::NetworkInfo => {
            (vm_id(), &["vm_id"])
        }
        Tool::List | Tool::ListEnvironments | Tool::ReapExpired => (json!({}), &[]),
    };
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    object(schema)
}

/// The names of a tool's arguments.
pub(crate) fn argument_names(tool: Tool) -> Vec<String> {
    let schema = input(tool, &Pins::default());
    let properties = schema["properties"].as_object().expect("every input schema has them");
    properties.keys().cloned().collect()
}

fn machine(pins: &Pins) -> Value {
    let environments: Vec<_> = pins.environments().iter().map(|name| name.as_str()).collect();
    let count_max = pins.vcpu_count_max.get();
    let mib_max = pins.memory_max.get();
    let seconds_max = pins.time_to_live_max.get().as_secs();
    json!({
        "environment": {
            "type": "string",
            "enum": environments,
            "description": "See vm_list_environments",
        },
        "vcpu_count": {
            "type": "integer",
            "minimum": VcpuCount::MIN,
            "maximum": count_max,
            "default": VcpuCount::DEFAULT.get().min(count_max),
        },
        "mem_mib": {
            "type": "integer",
            "minimum": MemoryMib::MIN,
            "maximum": mib_max,
            "default": MemoryMib::DEFAULT.get().min(mib_max),
        },
        "ttl_seconds": {
            "type": "integer",
            "minimum": TimeToLive::MIN_SECONDS,
            "maximum": seconds_max,
            "default": TimeToLive::DEFAULT.get().as_secs().min(seconds_max),
            "description": "The VM is destroyed after that, whatever it does",
        },
        "network": {
            "type": "boolean",
            "default": false,
            "description": "To public addresses, or those allowed",
        },
        "allow_hosts": list("Only these, e.g. *.example.org:443"),
        "allow_cidrs": list("E.g. 10.1.0.0/16:80"),
        "allow_public": { "type": "boolean", "description": "Public addresses as well" },
        "deny_hosts": list(""),
        "deny_cidrs": list(""),
        "publish": list("Guest ports on the host's 127.0.0.1, e.g. 8080:80"),
        "host_proxy": { "type": "boolean", "description": "Use the host's proxy" },
        "host_ca": { "type": "boolean", "description": "Trust the host's CAs" },
        "allow_host_compat": {
            "type": "boolean",
            "default": false,
            "description": "Run on the host, unprotected, if no VM can be had; only if the user asks for it",
        },
    })
}

fn command(pins: &Pins) -> Value {
    let seconds_max = pins.timeout_max.get().as_secs_f64();
    json!({
        "command": {
            "type": "string",
            "minLength": 1,
            "maxLength": CommandText::BYTES_MAX,
            "description": "For /bin/sh -lc, e.g. \"python3 -c 'print(6*7)'\"",
        },
        "timeout_seconds": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": seconds_max,
            "default": Timeout::DEFAULT.get().as_secs_f64().min(seconds_max),
            "description": "The command is killed after that; its output so far is kept",
        },
        "env": {
            "type": "object",
            "additionalProperties": { "type": "string" },
            "description": "Environment variables",
        },
        "cwd": { "type": "string", "description": "Absolute working directory" },
        "stdin": { "type": "string", "description": "Standard input, e.g. a script for `python3 -`" },
        "output_bytes_max": {
            "type": "integer",
            "minimum": 0,
            "maximum": OUTPUT_BYTES_MAX,
            "default": OUTPUT_BYTES_DEFAULT,
            "description": "Per stream; of more, head and tail are kept",
        },
    })
}

/// Of texts; an empty description is none.
fn list(description: &str) -> Value {
    let mut list = json!({ "type": "array", "items": { "type": "string" } });
    if !description.is_empty() {
        list["description"] = json!(description);
    }
    list
}

fn log() -> Value {
    json!({
        "run_id": { "type": "integer", "minimum": 1, "description": "From vm_exec's result; without it: the commands there were" },
        "stream": { "type": "string", "enum": ["stdout", "stderr"], "default": "stdout" },
        "offset": {
            "type": "integer",
            "minimum": 0,
            "default": 0,
            "description": "In bytes; then next_offset of the result",
        },
        "bytes_max": {
            "type": "integer",
            "minimum": 1,
            "maximum": OUTPUT_BYTES_MAX,
            "default": OUTPUT_BYTES_DEFAULT,
        },
    })
}

fn vm_id() -> Value {
    json!({ "vm_id": { "type": "string", "pattern": "^[0-9a-f]{12}$" } })
}

/// What a tool gives.
pub(crate) fn output(tool: Tool) -> Arc<JsonObject> {
    let (properties, required): (Value, &[&str]) = match tool {
        Tool::Run => (
            merged(&[
                executed(),
                json!({
                    "vm_start": { "enum": ["restored", "booted", "spare", null] },
                    "restore_failure": optional("string"),
                }),
            ]),
            &["exit_code", "stdout", "stderr"],
        ),
        Tool::Exec => (
            merged(&[
                executed(),
                json!({ "run_id": { "type": "integer", "description": "For vm_logs" } }),
            ]),
            &["exit_code", "stdout", "stderr"],
        ),
        Tool::Logs => (
            json!({
                "vm_id": { "type": "string" },
                "run_id": { "type": "integer" },
                "stream": { "enum": ["stdout", "stderr"] },
                "offset": { "type": "integer" },
                "text": { "type": "string" },
                "next_offset": optional("integer"),
                "kept_bytes": { "type": "integer" },
                "total_bytes": optional("integer"),
                "state": { "enum": ["running", "ended", "failed"] },
                "runs": { "type": "array", "items": { "type": "object" } },
            }),
            &["vm_id"],
        ),
        Tool::ListEnvironments => (
            json!({
                "catalog_version": { "type": "string" },
                "environments": { "type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "name": { "type": "string" },
                        "description": { "type": "string" },
                        "default_packages": { "type": "array", "items": { "type": "string" } },
                        "installed": { "type": "boolean" },
                    },
                }},
            }),
            &["environments"],
        ),
        // Each as vm_status tells it.
        Tool::List => {
            (json!({ "vms": { "type": "array", "items": { "type": "object" } } }), &["vms"])
        }
        Tool::Create | Tool::Start | Tool::Stop | Tool::Status => {
            (vm(), &["vm_id", "state", "expires_at"])
        }
        Tool::Delete => (deletion(), &["vm_id", "deleted"]),
        Tool::NetworkInfo => (
            json!({
                "vm_id": { "type": "string" },
                "network_enabled": { "type": "boolean" },
                "outbound_connectivity_expected": { "type": "boolean" },
                "reason": { "type": "string" },
                "guest_ip": { "type": "string" },
                "published": { "type": "array" },
                "policy": { "type": "array" },
            }),
            &["vm_id", "network_enabled"],
        ),
        Tool::ReapExpired => (
            json!({
                "deleted_vm_ids": { "type": "array", "items": { "type": "string" } },
                "count": { "type": "integer" },
            }),
            &["deleted_vm_ids", "count"],
        ),
    };
    object(json!({
        "type": "object",
        "properties": properties,
        "anyOf": [{ "required": required }, { "required": ["error"] }],
    }))
}

fn executed() -> Value {
    json!({
        "vm_id": { "type": "string" },
        "environment": { "type": "string" },
        "environment_version": { "type": "string" },
        "command": { "type": "string" },
        "stdout": { "type": "string" },
        "stderr": { "type": "string" },
        "exit_code": { "type": "integer" },
        "duration_ms": { "type": "integer" },
        "execution_mode": { "enum": ["guest", "host_compat"] },
        "timed_out": { "type": "boolean" },
        "stdout_truncated": { "type": "boolean" },
        "stderr_truncated": { "type": "boolean" },
        "stdout_bytes": { "type": "integer" },
        "stderr_bytes": { "type": "integer" },
        "accelerator": accelerator(),
        "out_of_memory": { "type": "boolean" },
        "network_refusals": { "type": "array" },
        "network_refusals_left_out": { "type": "integer" },
        "cleanup": { "type": "object", "properties": deletion() },
    })
}

fn vm() -> Value {
    json!({
        "vm_id": { "type": "string" },
        "environment": { "type": "string" },
        "environment_version": { "type": "string" },
        "vcpu_count": { "type": "integer" },
        "mem_mib": { "type": "integer" },
        "ttl_seconds": { "type": "integer" },
        "created_at": { "type": "number" },
        "expires_at": { "type": "number", "description": "Seconds since 1970" },
        "state": { "enum": ["created", "started", "stopped"] },
        "network_enabled": { "type": "boolean" },
        "allow_host_compat": { "type": "boolean" },
        "guest_ip": optional("string"),
        "tap_name": optional("string"),
        "execution_mode": { "enum": ["pending", "guest"] },
        "metadata": { "type": "object" },
        "accelerator": accelerator(),
    })
}

fn deletion() -> Value {
    json!({
        "vm_id": { "type": "string" },
        "deleted": { "type": "boolean" },
        "reason": { "type": "string" },
    })
}

fn accelerator() -> Value {
    json!({ "enum": ["kvm", "tcg", null] })
}

fn optional(kind: &str) -> Value {
    // Not a list of types, which some clients' dialects of JSON Schema do not know.
    json!({ "anyOf": [{ "type": kind }, { "type": "null" }] })
}

fn merged(parts: &[Value]) -> Value {
    let mut whole = JsonObject::new();
    for part in parts {
        whole.extend(part.as_object().cloned().unwrap_or_default());
    }
    Value::Object(whole)
}

fn object(schema: Value) -> Arc<JsonObject> {
    match schema {
        Value::Object(schema) => Arc::new(schema),
        other => unreachable!("a schema is an object, not {other}"),
    }
}
