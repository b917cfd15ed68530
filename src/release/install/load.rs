//! Loading what was compiled: engines with room for it, and its code mapped and linked.

use super::{InstallError, Installer, lock};
use crate::manifest::{Diagnostic, FunctionSpec, Manifest};
use crate::platform;
use crate::receipt::Kind;
use crate::release::data::AppData;
use crate::runtime::code::{CodeLoader, CodeSource, MAPPINGS_OF_CODE};
use crate::runtime::engine::Engines;
use crate::runtime::function::{Function, FunctionError, FunctionSettings};
use crate::runtime::pool::Needs;
use crate::runtime::residents::Residents;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

/// Functions whose code is kept mapped, whatever the system allows.
const LOADED_MIN: usize = 64;

impl Installer {
    /// Where functions of such needs have room. Engines that have it not stay with the releases that run on them.
    pub(super) fn residents_for(&self, needs: &[(Kind, Needs)]) -> Result<Arc<Residents>, InstallError> {
        let mut residents = lock(&self.residents);
        let mut needs = needs.to_vec();
        if let Some(residents) = &*residents {
            if residents.engines().hold(&needs) {
                return Ok(Arc::clone(residents));
            }
            tracing::info!("a larger pool of sandboxes is made");
            needs.extend(residents.engines().needs());
        }
        let engines = Arc::new(Engines::new(self.settings.concurrency, &needs)?);
        let loaded_max = self.loaded_max(&engines);
        let loader = CodeLoader::new(engines, Arc::clone(&self.compilers), self.artifacts.clone());
        let made = Arc::new(Residents::new(loader.map_err(InstallError::Link)?, loaded_max, Arc::clone(&self.mapped)));
        lock(&self.all_residents).push(Arc::downgrade(&made));
        *residents = Some(Arc::clone(&made));
        Ok(made)
    }

    /// How many functions have their code mapped at once. The system bounds mappings, and a process that has none left
    /// fails in ways that nobody can mend, so a part of them is left for everything else.
    fn loaded_max(&self, engines: &Engines) -> usize {
        let wanted = self.settings.loaded_functions as usize;
        let Some(mappings) = platform::mappings_max() else { return wanted };
        let possible = (mappings - mappings / 16).saturating_sub(engines.mappings()) / MAPPINGS_OF_CODE;
        // What sandboxes may take is the most that they ever would, so a few functions always have room.
        let possible = possible.max(LOADED_MIN);
        if wanted > possible {
            tracing::info!(
                "the code of {possible} functions at the most is kept mapped, for the system allows {mappings} mappings \
                 (vm.max_map_count)",
            );
        }
        wanted.min(possible)
    }

    /// Loads all, on every core: it is reading files and checking sums.
    pub(super) fn load_all(
        &self,
        manifest: &Manifest,
        data: &AppData,
        residents: &Arc<Residents>,
        compiled: &[(&FunctionSpec, CodeSource)],
    ) -> (Vec<Arc<Function>>, Vec<Diagnostic>) {
        let eager = residents.make_room_for(compiled.iter().map(|(_, source)| source));
        let loaded: Vec<OnceLock<Result<Arc<Function>, Diagnostic>>> =
            compiled.iter().map(|_| OnceLock::new()).collect();
        let next = AtomicUsize::new(0);
        let load = |spec: &FunctionSpec, source: &CodeSource| {
            let settings = self.function_settings(manifest, data, spec)?;
            let function = Function::load(residents, self.host_gate.clone(), source.clone(), settings, eager);
            function.map(Arc::new).map_err(|error| explain(spec, &error))
        };
        let work = || {
            while let Some((slot, (spec, source))) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                loaded.get(at).zip(compiled.get(at))
            } {
                // Each slot is one thread's alone.
                let _ = slot.set(load(spec, source));
            }
        };
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, usize::from).min(compiled.len());
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        let mut functions = Vec::with_capacity(compiled.len());
        let mut errors = Vec::new();
        for result in loaded.into_iter().filter_map(OnceLock::into_inner) {
            match result {
                Ok(function) => functions.push(function),
                Err(diagnostic) => errors.push(diagnostic),
            }
        }
        (functions, errors)
    }

    fn function_settings(
        &self,
        manifest: &Manifest,
        data: &AppData,
        spec: &FunctionSpec,
    ) -> Result<FunctionSettings, Diagnostic> {
        Ok(FunctionSettings {
            app: manifest.name.clone(),
            name: spec.name.clone(),
            limits: spec.limits.clone(),
            body_timeout: self.settings.body_timeout,
            env: spec.env.clone(),
            config: spec.config.clone(),
            data: Arc::new(data.granted(&spec.data, manifest.is_upload())?),
            outbound: spec.outbound.clone(),
        })
    }
}

fn explain(spec: &FunctionSpec, error: &FunctionError) -> Diagnostic {
    let message = format!("{} cannot be installed: {error}", spec.component.display());
    match error {
        FunctionError::Memory { .. } => {
            Diagnostic::new(spec.memory_span.clone(), message).help("raise `memory` in its limits")
        }
        FunctionError::Import(_) => {
            Diagnostic::new(spec.component_span.clone(), message).help("wit/world.wit lists what a function may import")
        }
        FunctionError::Pool(_) => Diagnostic::new(spec.component_span.clone(), message)
            .help("split the component: fewer instances, memories or tables in one"),
        FunctionError::Compile(_) | FunctionError::Load(_) => Diagnostic::new(spec.component_span.clone(), message),
    }
}
