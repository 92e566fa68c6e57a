//! Manual pages and completions, for whoever looks at them here, or packs pyro for a distribution.

use crate::steps::Steps;
use crate::workspace;

/// Has a pyro of this state of the code write them: they are made from its command line.
pub(crate) fn man() -> Result<(), String> {
    let mut steps = Steps::default();
    let target = workspace::target()?;
    let share = target.join("share");
    let mut build = workspace::cargo();
    build.args(["build", "--package=pyro-cli"]);
    let outcome = steps.command("build pyro", &mut build).and_then(|()| {
        let mut pyro = std::process::Command::new(target.join("debug/pyro"));
        pyro.args(["internal", "write-pages"]).arg(&share);
        steps.command("write manual pages and completions", &mut pyro)
    });
    let finished = steps.finish();
    outcome.and(finished)?;
    println!("\nRead them:\n  man --manpath={} pyro", share.join("man").display());
    Ok(())
}
