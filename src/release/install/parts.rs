//! The components that a function is made of: its own, and those of its middleware.

use super::{InstallError, Kept};
use crate::limits::COMPONENT_BYTES_MAX;
use crate::manifest::middleware::MiddlewareComponent;
use crate::manifest::{Diagnostic, FunctionSpec, Manifest};
use crate::runtime::code::{CodeSource, ComponentFile};
use crate::runtime::compose::{ComposeError, Part, compose};
use crate::storage::artifacts::Digest256;
use crate::storage::components::{ComponentStoreError, Components};
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

/// The bytes of a function's components.
pub(super) struct Parts<'m> {
    /// The first sees a request first.
    before: Vec<(&'m MiddlewareComponent, Vec<u8>, Digest256)>,
    function: Vec<u8>,
    digest: Digest256,
}

impl<'m> Parts<'m> {
    /// From the files that `manifest` names.
    pub(super) fn read(manifest: &'m Manifest, spec: &'m FunctionSpec) -> Result<Self, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let mut before = Vec::new();
        for link in manifest.composed(spec) {
            match read_file(&link.path, &link.span, link.build.is_some()) {
                Ok(bytes) => {
                    let digest = Digest256::of(&bytes);
                    before.push((link, bytes, digest));
                }
                Err(error) => errors.push(error),
            }
        }
        match read_file(&spec.component, &spec.component_span, spec.build.is_some()) {
            Ok(function) if errors.is_empty() => {
                let digest = Digest256::of(&function);
                Ok(Self { before, function, digest })
            }
            Ok(_) => Err(errors),
            Err(error) => {
                errors.push(error);
                Err(errors)
            }
        }
    }

    /// From the state folder.
    pub(super) fn kept(
        manifest: &'m Manifest,
        spec: &'m FunctionSpec,
        kept: &Kept,
        components: &Components,
    ) -> Result<Self, InstallError> {
        let read = |digest: &Digest256| components.read(digest).ok_or(InstallError::Missing(*digest));
        let before = manifest.composed(spec).zip(&kept.before);
        let before = before.map(|(link, digest)| Ok((link, read(digest)?, *digest)));
        let before = before.collect::<Result<_, InstallError>>()?;
        Ok(Self { before, function: read(&kept.digest)?, digest: kept.digest })
    }

    /// What they are known by together.
    pub(super) fn digest(&self) -> Digest256 {
        let before: Vec<Digest256> = self.before.iter().map(|(_, _, digest)| *digest).collect();
        Digest256::of_chain(&before, self.digest)
    }

    /// Where they are: that of the function, and those before it.
    pub(super) fn files(&self, spec: &FunctionSpec) -> (ComponentFile, Vec<ComponentFile>) {
        let of_link = |(link, _, digest): &(&MiddlewareComponent, Vec<u8>, Digest256)| ComponentFile {
            path: link.path.clone(),
            digest: *digest,
        };
        let component = ComponentFile { path: spec.component.clone(), digest: self.digest };
        (component, self.before.iter().map(of_link).collect())
    }

    /// Keeps them in the state folder.
    pub(super) fn keep(&self, components: &Components) -> Result<(), ComponentStoreError> {
        for (_, bytes, digest) in &self.before {
            components.keep(digest, bytes)?;
        }
        components.keep(&self.digest, &self.function)
    }

    /// All of them as one.
    pub(super) fn composed(&self, spec: &FunctionSpec) -> Result<Cow<'_, [u8]>, Diagnostic> {
        if self.before.is_empty() {
            return Ok(Cow::Borrowed(&self.function));
        }
        let names: Vec<String> = self.before.iter().map(|(link, ..)| link.path.display().to_string()).collect();
        let parts = names.iter().zip(&self.before).map(|(name, (_, bytes, _))| Part { name, bytes });
        let name = spec.component.display().to_string();
        let composed = compose(&parts.collect::<Vec<_>>(), &Part { name: &name, bytes: &self.function });
        composed.map(Cow::Owned).map_err(|error| self.explain(spec, &names, &error))
    }

    fn explain(&self, spec: &FunctionSpec, names: &[String], error: &ComposeError) -> Diagnostic {
        let culprit = match error {
            ComposeError::Component(_) => None,
            ComposeError::Command(name)
            | ComposeError::NoImport { name, .. }
            | ComposeError::Kinds { name, .. }
            | ComposeError::Types { name, .. } => names.iter().position(|known| known == name),
        };
        let link = culprit.and_then(|at| self.before.get(at));
        let span = link.map_or_else(|| spec.component_span.clone(), |(link, ..)| link.span.clone());
        let told = Diagnostic::new(span, format!("the function `{}` cannot be composed: {error}", spec.name));
        told.help(error.help())
    }
}

impl CodeSource {
    /// They are kept there, and are to be had from there.
    pub(super) fn keep_in(&mut self, components: &Components) {
        for file in self.before.iter_mut().chain([&mut self.component]) {
            file.path = components.path(&file.digest);
        }
    }
}

fn read_file(file: &Path, span: &Range<usize>, is_built: bool) -> Result<Vec<u8>, Diagnostic> {
    let path = file.display();
    let refuse = |message: String| Diagnostic::new(span.clone(), message);
    let metadata = std::fs::metadata(file).map_err(|error| {
        let missing = refuse(format!("the component {path} cannot be read: {error}"));
        missing.help(if is_built { "`fnhost build` makes it" } else { "build it, or correct the path" })
    })?;
    if !metadata.is_file() {
        return Err(refuse(format!("the component {path} is no file")));
    }
    if metadata.len() > COMPONENT_BYTES_MAX {
        let size = metadata.len();
        return Err(refuse(format!("the component {path} has {size} bytes, and {COMPONENT_BYTES_MAX} are allowed")));
    }
    std::fs::read(file).map_err(|error| refuse(format!("the component {path} cannot be read: {error}")))
}
