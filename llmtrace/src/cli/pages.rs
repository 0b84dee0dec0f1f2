//! `llmtrace completions` and `llmtrace man`: what shells and `man` want to know of the commands.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmtrace completions bash > /etc/bash_completion.d/llmtrace
  llmtrace completions zsh > \"${fpath[1]}/_llmtrace\"
  llmtrace completions fish > ~/.config/fish/completions/llmtrace.fish")]
pub struct CompletionsArgs {
    pub shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmtrace man | man -l -
  llmtrace man --dir /usr/local/share/man/man1     a page for each command")]
pub struct ManArgs {
    /// Write a page for each command into this folder, instead of the first to standard output.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `llmtrace completions`.
pub fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "llmtrace", &mut script);
    print(&script)
}

/// `llmtrace man`.
pub fn man(args: &ManArgs) -> Result<()> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(super::command()).render(&mut page)?;
        return print(&page);
    };
    let cannot = || format!("cannot write manual pages into {}", dir.display());
    fs::create_dir_all(dir).with_context(cannot)?;
    clap_mangen::generate_to(super::command(), dir).with_context(cannot)
}

fn print(bytes: &[u8]) -> Result<()> {
    Ok(std::io::stdout().write_all(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_for_each_command_with_its_flags() {
        let dir = std::env::temp_dir().join(format!("llmtrace-man-{}", std::process::id()));
        man(&ManArgs { dir: Some(dir.clone()) }).unwrap();
        for command in super::super::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let path = dir.join(format!("llmtrace-{}.1", command.get_name()));
            let page = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            for long in
                command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long())
            {
                let there = page.contains(&format!("\\-\\-{}", long.replace('-', "\\-")));
                assert!(there || long == "help", "{path:?} has no --{long}");
            }
            assert!(page.contains("Example"), "{path:?} has no example");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn completions_know_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut super::super::command(), "llmtrace", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in super::super::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
