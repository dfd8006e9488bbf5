//! `ringfence manual FOLDER`: what packages install beside the binary, written from the command line's definition.

use std::{fs, io, path::Path};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::cli::Cli;

/// Writes manual pages (`ringfence.1`, `ringfence-run.1`, …) and completions for every shell.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut Cli::command(), "ringfence", folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_hidden_ones_have_none() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let page = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert!(page("ringfence.1").contains("A whole config file"), "the example stands in it");
        for command in Cli::command().get_subcommands().filter(|one| one.get_name() != "help") {
            let written = !page(&format!("ringfence-{}.1", command.get_name())).is_empty();
            assert_eq!(written, !command.is_hide_set(), "{}", command.get_name());
        }
        for completion in ["ringfence.bash", "_ringfence", "ringfence.fish"] {
            let text = page(completion);
            assert!(text.contains("check"), "{completion}");
        }
    }
}
