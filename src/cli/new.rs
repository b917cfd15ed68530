//! `fnhost new` and `fnhost add`: an app, or a function of one, from a template.

use super::{ManifestArgs, warn};
use crate::authoring::templates::{self, Template};
use crate::authoring::{build, editor};
use crate::manifest::{HostConfig, Manifest};
use crate::names::Name;
use anyhow::{Context as _, anyhow, bail, ensure};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use std::fs::OpenOptions;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

/// The arguments of `new`.
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The folder to make. Its last part is the name of the app, and of its function.
    #[arg(value_name = "NAME")]
    folder: PathBuf,
    #[command(flatten)]
    template: TemplateArgs,
}

/// The arguments of `add`.
#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The name of the function, and of its folder beside functions.toml.
    name: String,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
}

#[derive(Debug, Args)]
struct TemplateArgs {
    /// What to begin with; on a terminal, it is asked for.
    #[arg(short, long, value_name = "TEMPLATE")]
    template: Option<Template>,
}

impl ValueEnum for Template {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()).help(self.description()))
    }
}

impl TemplateArgs {
    /// The template that was named, or else is chosen now.
    fn choose(&self) -> anyhow::Result<Template> {
        if let Some(template) = self.template {
            return Ok(template);
        }
        let known = Template::ALL.map(Template::as_str).join(", ");
        ensure!(
            std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
            "there is no terminal to ask on, so say what to begin with: --template, with one of {known}",
        );
        ask()
    }
}

/// A list with numbers, because it works on every terminal and leaves it as it was, however the asking ends.
fn ask() -> anyhow::Result<Template> {
    let mut terminal = std::io::stderr().lock();
    for (number, template) in (1..).zip(Template::ALL) {
        writeln!(terminal, "{number}  {:<11} {}", template.as_str(), template.description())?;
    }
    loop {
        write!(terminal, "Which template? [1] ")?;
        let mut answer = String::new();
        ensure!(std::io::stdin().lock().read_line(&mut answer)? > 0, "no template was chosen");
        let answer = answer.trim();
        let wanted = |(number, template): &(usize, Template)| {
            answer == template.as_str() || answer.parse() == Ok(*number) || (answer.is_empty() && *number == 1)
        };
        if let Some((_, template)) = (1..).zip(Template::ALL).find(wanted) {
            return Ok(template);
        }
    }
}

/// Makes an app.
pub(super) fn new(args: &NewArgs) -> anyhow::Result<()> {
    let folder = std::path::absolute(&args.folder)?;
    let last = folder.file_name().with_context(|| format!("{} does not end with a name", args.folder.display()))?;
    let name = named(&last.to_string_lossy())?;
    refuse_taken(&folder)?;
    let template = args.template.choose()?;
    refuse_reserved(template, &name)?;
    templates::write_app(template, &name, &folder)?.keep();
    // The app is there without it.
    if let Err(error) = editor::write_schema(&folder.join(HostConfig::default().state)) {
        warn(&format!("editors will not know what may stand in functions.toml: {error}"));
    }
    super::print(&format!("made {}\n", args.folder.display()));
    warn_of_missing(&folder.join(super::DEFAULT_FILE));
    let here = std::env::current_dir().is_ok_and(|here| here == folder);
    let enter = if here { String::new() } else { format!("cd {} && ", quoted(&args.folder)) };
    super::print(&format!("next: {enter}fnhost up\n"));
    Ok(())
}

/// Adds a function to an app.
pub(super) fn add(args: &AddArgs) -> anyhow::Result<()> {
    let name = named(&args.name)?;
    let manifest = args.manifest.read()?;
    let file = manifest.path();
    let taken = manifest.functions.iter().any(|spec| spec.name == name);
    ensure!(!taken, "{} has a function `{name}` already", file.display());
    let folder = match file.parent() {
        Some(parent) => parent.join(name.as_str()),
        None => PathBuf::from(name.as_str()),
    };
    refuse_taken(&folder)?;
    let template = args.template.choose()?;
    refuse_reserved(template, &name)?;
    let addition = following(manifest.source(), &template.entries(&name));
    if template == Template::Middleware {
        // The file will do when a function lists it, and where it is to stand is for people to say.
        let taken = manifest.middleware.iter().any(|spec| spec.name == name);
        ensure!(!taken, "{} has the middleware `{name}` already", file.display());
    } else {
        // Looked at before anything is written: what it would be is to be as good as it was.
        Manifest::parse(file, format!("{}{addition}", manifest.source())).map_err(|error| {
            anyhow!("{} would not do with `{name}` added, and is as it was:\n{error}", file.display())
        })?;
    }
    let written = templates::write_function(template, &name, &folder)?;
    append(file, &addition).with_context(|| format!("cannot write to {}", file.display()))?;
    written.keep();
    super::print(&format!("made {}, and added it to {}\n", folder.display(), file.display()));
    warn_of_missing(file);
    if template == Template::Middleware {
        super::print(&format!("next: list it in `middleware = [\"{name}\"]` of a function, then: fnhost up\n"));
    } else {
        super::print(&format!("next: fnhost up; it answers at /{name}\n"));
    }
    Ok(())
}

fn named(text: &str) -> anyhow::Result<Name> {
    Name::new(text).map_err(|error| match Name::nearest(text) {
        Some(near) => anyhow!("`{text}` cannot be a name: {error}; `{near}` could"),
        None => anyhow!("`{text}` cannot be a name: {error}"),
    })
}

/// Before anybody is asked anything.
fn refuse_taken(folder: &Path) -> anyhow::Result<()> {
    let is_empty = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(!folder.exists() || is_empty, "{} is there already, and is not an empty folder", folder.display());
    Ok(())
}

fn refuse_reserved(template: Template, name: &Name) -> anyhow::Result<()> {
    if !template.takes(name) {
        bail!(
            "`{name}` cannot be the name of a package of this template: the language has it, or something that it depends on"
        );
    }
    Ok(())
}

/// `entries` as they come behind `text`.
fn following(text: &str, entries: &str) -> String {
    if text.ends_with('\n') { entries.to_owned() } else { format!("\n{entries}") }
}

/// In place and at the end: what somebody wrote stays as it is to the byte, and so do the file's owner, mode and links.
fn append(file: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(file)?;
    let length = file.metadata()?.len();
    file.write_all(text.as_bytes()).inspect_err(|_| {
        // A disk that is full has taken a part of it.
        let _ = file.set_len(length);
    })
}

/// What is not installed does not keep anybody from beginning.
fn warn_of_missing(file: &Path) {
    if let Ok(manifest) = Manifest::read(file) {
        for missing in build::missing_tools(&manifest) {
            warn(&missing);
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
