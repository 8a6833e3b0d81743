//! `flotilla bench`: flags in, the load generator's report out. What it does lives in [`crate::bench`].

mod arguments;
mod progress;

use std::{fs::File, io::Write as _, path::Path};

use tokio::sync::watch;

use self::{arguments::Bench, progress::Lines};
use super::{
    Context,
    failure::{Failure, Outcome},
    output::{Format, Out, talk},
};
use crate::{
    bench::{self, Error, Settings, Stop},
    exit::ExitCode,
};

pub(super) use self::arguments::Bench as Command;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Client(error) => Self::Client(error),
            Error::Usage(message) => Self::Usage(message),
            Error::Target(message) => Self::NobodyAnswers(message),
            Error::Io { what, source } => Self::File {
                path: what.into(),
                source,
            },
            Error::Incomplete(message) => Self::Incomplete(message),
        }
    }
}

/// The first Ctrl-C ends the run, which then reports; the second one ends the process.
fn stop_on_ctrl_c() -> Stop {
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            talk("ending; once more ends at once");
            // Nobody listens any more when all is over.
            let _ = sender.send(true);
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(ExitCode::Error.code().into());
            }
        }
        // The sender must live on, or the run would take its end for a word.
        std::future::pending::<()>().await;
        drop(sender);
    });
    stop
}

impl Bench {
    pub(super) async fn run(self, context: &Context, out: &mut Out) -> Outcome {
        let mut stop = stop_on_ctrl_c();
        let mut lines = Lines::new();
        match self {
            Self::Fill(arguments) => {
                let settings = arguments.settings(context, bench::Mix::only(bench::Kind::Put))?;
                bench::fill_only(&settings, &mut lines, &mut stop).await?;
                lines.finish();
                talk(format!("{} keys are written", settings.keys));
                Ok(())
            }
            Self::Compare(compare) => {
                let comparison = compare.comparison(context);
                let command = arguments::command();
                let compared = bench::compare(&comparison, command, &mut lines, &mut stop).await?;
                lines.finish();
                match context.global.output {
                    Format::Table => out.line(compared.to_string().trim_end())?,
                    format => out.json(format, &compared.json())?,
                }
                out.flush()?;
                let json = serde_json::to_vec_pretty(&compared.json()).expect("plain values");
                for (name, content) in [
                    ("compare.html", compared.html().into_bytes()),
                    ("compare.json", json),
                ] {
                    let path = compare.folder.join(name);
                    std::fs::write(&path, content).map_err(Failure::file(&path))?;
                    talk(format!("written: {}", path.display()));
                }
                compared
                    .shortcoming()
                    .map_or(Ok(()), |short| Err(Failure::Incomplete(short)))
            }
            load => {
                let (settings, arguments) = load.settings(context)?;
                let page = arguments.report.as_deref();
                measure(&settings, page, context, out, &mut lines, &mut stop).await
            }
        }
    }
}

async fn measure(
    settings: &Settings,
    page: Option<&Path>,
    context: &Context,
    out: &mut Out,
    lines: &mut Lines,
    stop: &mut Stop,
) -> Outcome {
    // A page that can't be written must not cost a run.
    let mut file = page
        .map(|path| File::create(path).map_err(Failure::file(path)))
        .transpose()?;
    let report = bench::run(settings, lines, stop).await?;
    lines.finish();
    match context.global.output {
        Format::Table => out.line(report.to_string().trim_end())?,
        format => out.json(format, &report)?,
    }
    out.flush()?;
    if let Some((file, path)) = file.as_mut().zip(page) {
        let written = file.write_all(report.html().as_bytes());
        written.map_err(Failure::file(path))?;
        talk(format!("the report is in {}", path.display()));
    }
    match report.shortcoming() {
        Some(shortcoming) => Err(Failure::Incomplete(shortcoming)),
        None => Ok(()),
    }
}
