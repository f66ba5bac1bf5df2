//! The flags of the log, under upstream's names.
//!
//! Without any of them the log is what `IRONCLAD_LOG` asks for, warnings by default. Not here: how a line is made
//! (`foundation::logging`). Upstream: component-base/logs/api/v1 (options.go).

use anyhow::Context as _;
use foundation::logging::{self, Filter, Format, Settings, VerboseModule, Verbosity};

/// What of the log can be set.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Log")]
pub struct Logs {
    /// Whether lines are text, or JSON objects as upstream's components write them
    #[arg(
        long,
        env = "IRONCLAD_LOGGING_FORMAT",
        default_value = "text",
        value_parser = ["text", "json"],
        value_name = "FORMAT"
    )]
    pub logging_format: String,
    /// How much is logged: 0 what an operator wants to see, 4 what helps debugging, 5 single steps
    #[arg(short = 'v', long = "v", env = "IRONCLAD_V", value_name = "LEVEL")]
    pub v: Option<u32>,
    /// Levels of single source files, for instance filters=5 or crates/store/*=4
    #[arg(long, env = "IRONCLAD_VMODULE", value_delimiter = ',', value_name = "PATTERN=LEVEL")]
    pub vmodule: Vec<VerboseModule>,
}

impl Logs {
    /// Starts the log of this process.
    pub fn start(&self) -> anyhow::Result<()> {
        self.start_with(None)
    }

    /// The same, where a level is known that counts unless these flags or `IRONCLAD_LOG` say something.
    pub fn start_with(&self, level: Option<&str>) -> anyhow::Result<()> {
        let directives = std::env::var("IRONCLAD_LOG").ok().or_else(|| level.map(str::to_owned));
        logging::init(self.settings(directives)).context("cannot start logging")
    }

    /// How to log; `directives` is what `IRONCLAD_LOG` says, which a flag wins over.
    fn settings(&self, directives: Option<String>) -> Settings {
        let format = if self.logging_format == "json" { Format::Json } else { Format::Text };
        let filter = if self.v.is_none() && self.vmodule.is_empty() {
            Filter::Directives(directives.unwrap_or_else(|| "warn".to_owned()))
        } else {
            Filter::Verbosity(Verbosity { level: self.v.unwrap_or(0), modules: self.vmodule.clone() })
        };
        Settings { format, filter }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        logs: Logs,
    }

    fn settings(arguments: &[&str], directives: Option<&str>) -> Settings {
        let program = Program::try_parse_from([&["program"], arguments].concat()).unwrap();
        program.logs.settings(directives.map(str::to_owned))
    }

    #[test]
    fn a_flag_wins_over_the_environment_which_wins_over_warnings() {
        let of = |arguments: &[&str], directives| format!("{:?}", settings(arguments, directives).filter);
        assert_eq!(of(&[], None), "Directives(\"warn\")");
        assert_eq!(of(&["--logging-format=json"], Some("store=debug")), "Directives(\"store=debug\")");
        assert_eq!(of(&["-v=4"], Some("store=debug")), "Verbosity(Verbosity { level: 4, modules: [] })");
        assert_eq!(of(&["--v", "2"], None), "Verbosity(Verbosity { level: 2, modules: [] })");
        let modules = settings(&["--vmodule=a=1,b*=5"], None);
        let Filter::Verbosity(modules) = modules.filter else { panic!("{modules:?}") };
        assert_eq!((modules.level, modules.modules.len()), (0, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in ["--logging-format=xml", "--v=much", "--vmodule=filters"] {
            assert!(Program::try_parse_from(["program", wrong]).is_err(), "{wrong}");
        }
    }
}
