//! What lies in the cache and in the directory of what runs.

use pyro_supervisor::TemplateCount;

use super::{Check, mib};
use crate::PyroError;
use crate::doctor::SparesReport;
use crate::environments::EnvironmentEntry;
use crate::leftovers::Leftover;

/// What removes leftovers, and templates that nobody can use.
const FIX: &str = "pyro doctor --fix";

pub(crate) fn environments(list: Result<&[EnvironmentEntry], &PyroError>) -> Check {
    const NAME: &str = "environments";
    let list = match list {
        Ok(list) => list,
        Err(failure) => return Check::failed(NAME, failure),
    };
    let damaged: Vec<_> = list.iter().filter(|entry| entry.damage.is_some()).collect();
    if !damaged.is_empty() {
        let named = |entry: &&EnvironmentEntry| {
            format!("`{}` is damaged: {}", entry.name, entry.damage.as_deref().unwrap_or_default())
        };
        let reasons: Vec<_> = damaged.iter().map(named).collect();
        let pulls: Vec<_> =
            damaged.iter().map(|entry| format!("pyro env pull {}", entry.name)).collect();
        return Check::warn(NAME, reasons.join("; "), pulls.join(" && "));
    }
    match list.iter().filter(|entry| entry.installed).count() {
        0 => Check::pass(NAME, "none is installed; the first run pulls the one that it needs"),
        count => Check::pass(NAME, format!("{count} of {} installed", list.len())),
    }
}

pub(crate) fn templates(count: Result<TemplateCount, &PyroError>) -> Check {
    const NAME: &str = "templates";
    let count = match count {
        Ok(count) => count,
        Err(failure) => return Check::warn(NAME, super::reason(failure), "pyro env prune"),
    };
    let all = match count.count {
        0 => "none; the first run in an environment makes one".to_owned(),
        number => format!("{number}, {}", mib(count.bytes)),
    };
    match count.unusable {
        0 => Check::pass(NAME, all),
        number => Check::warn(
            NAME,
            format!("{all}; {number} of them of no environment that is there"),
            FIX,
        ),
    }
}

pub(crate) fn leftovers(found: Result<&[Leftover], &PyroError>) -> Check {
    const NAME: &str = "leftovers";
    match found {
        Ok([]) => Check::pass(NAME, "none"),
        Ok(found) => {
            let reason = format!("{} of processes that were killed; they do no harm", found.len());
            Check::warn(NAME, reason, FIX)
        }
        Err(failure) => Check::warn(NAME, super::reason(failure), FIX),
    }
}

/// Of something that could not be put right.
pub(crate) fn repair(failure: &PyroError) -> Check {
    let remedy = failure.hints.first().map_or(FIX, String::as_str);
    Check::warn("fix", super::reason(failure), remedy)
}

pub(crate) fn spares(report: &SparesReport) -> Check {
    let reason = match report.count {
        0 => "none".to_owned(),
        count => format!("{count}, which have {} for themselves", mib(report.private_bytes)),
    };
    Check::pass("spares", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::CheckStatus;

    #[test]
    fn templates_that_nobody_can_use_are_to_be_removed() {
        let count = TemplateCount { count: 3, bytes: 190 << 20, unusable: 0 };
        assert_eq!(templates(Ok(count)), Check::pass("templates", "3, 190 MiB"));
        let check = templates(Ok(TemplateCount { unusable: 1, ..count }));
        assert_eq!((check.status, check.remedy.as_deref()), (CheckStatus::Warn, Some(FIX)));
    }
}
