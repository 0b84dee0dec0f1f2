//! The live page: llmtrace/web, built by Vite into llmtrace/web/dist, which llmtrace/build.rs embeds.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh;
use crate::toolchain::on_path;

/// The oldest Node that Vite runs on.
const NODE: (u32, u32) = (20, 19);
const STAMP: &str = ".xtask-stamp";

/// Builds the page if Node is here and it is not built from these very sources.
pub fn build() -> Result<()> {
    let web = sh::root().join("llmtrace/web");
    let Some(node) = node() else {
        sh::say(&format!(
            "without Node {}.{} and npm: the agent's page at / will be links only",
            NODE.0, NODE.1
        ));
        return Ok(());
    };
    let inputs = inputs(&web, &node)?;
    let stamp = web.join("dist").join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == inputs) {
        return Ok(());
    }
    sh::say("building the live page (llmtrace/web)");
    let npm = |args: &[&str]| {
        let mut npm = sh::command("npm", args);
        npm.current_dir(&web);
        npm
    };
    sh::quiet(&mut npm(&["ci", "--no-audit", "--no-fund", "--ignore-scripts"]))
        .context("npm could not install llmtrace/web/package-lock.json")?;
    sh::quiet(&mut npm(&["run", "build"])).context("llmtrace/web did not build")?;
    for name in ["index.html", "app.css", "app.js"] {
        if !web.join("dist").join(name).exists() {
            bail!("llmtrace/web built, but there is no dist/{name}");
        }
    }
    fs::write(&stamp, inputs).with_context(|| format!("cannot write {}", stamp.display()))
}

/// The version of a Node that is new enough and has npm.
fn node() -> Option<String> {
    on_path("npm")?;
    let version = sh::output(&mut sh::command("node", ["--version"]))?;
    (parse(&version)? >= NODE).then_some(version)
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim().trim_start_matches('v').split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Everything that the page is made from.
fn inputs(web: &Path, node: &str) -> Result<String> {
    let mut files: Vec<PathBuf> =
        ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"]
            .map(|name| web.join(name))
            .into();
    for entry in fs::read_dir(web.join("src")).context("llmtrace/web/src")? {
        files.push(entry?.path());
    }
    files.sort();
    let mut all = format!("{}\n", node.trim());
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        all += &format!("{}\n{text}\n", file.display());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse("v20.19.4\n"), Some((20, 19)));
        assert!(parse("v20.9.0").unwrap() < NODE && parse("v22.0.0").unwrap() > NODE);
        assert_eq!(parse("none"), None);
    }
}
