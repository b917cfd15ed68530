//! The outline of a component, read in one pass: what crosses its border, what a sandbox of it is made of, and by whom it was
//! made.

use std::collections::BTreeSet;
use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Instance, KnownCustom, Parser, Payload, ProducersSectionReader,
};

/// The bytes of one page of a linear memory, unless it says otherwise.
const PAGE_BYTES: u64 = 64 << 10;

/// What a sandbox needs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) instances: u32,
    pub(super) memories: u32,
    pub(super) memory_bytes: u64,
    pub(super) tables: u32,
}

impl Needs {
    fn add(&mut self, more: Self) {
        self.instances = self.instances.saturating_add(more.instances);
        self.memories = self.memories.saturating_add(more.memories);
        self.memory_bytes = self.memory_bytes.saturating_add(more.memory_bytes);
        self.tables = self.tables.saturating_add(more.tables);
    }
}

/// A component, or a core module.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    pub(super) needs: Needs,
    languages: BTreeSet<String>,
    tools: BTreeSet<String>,
}

/// A module or component that is being read.
#[derive(Default)]
struct Frame {
    is_module: bool,
    /// What it needs by itself; of a component, each time that it is instantiated.
    needs: Needs,
    /// What each of its modules and components needs, in the order of their numbers.
    modules: Vec<Needs>,
    components: Vec<Needs>,
}

impl Outline {
    /// Of `bytes`, which are valid.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, BinaryReaderError> {
        let mut outline = Self::default();
        let mut frames = vec![Frame::default()];
        for payload in Parser::new(0).parse_all(bytes) {
            outline.read(payload?, &mut frames)?;
        }
        Ok(outline)
    }

    fn read(&mut self, payload: Payload<'_>, frames: &mut Vec<Frame>) -> Result<(), BinaryReaderError> {
        let at_border = frames.len() == 1;
        match payload {
            Payload::ModuleSection { .. } => frames.push(Frame { is_module: true, ..Frame::default() }),
            Payload::ComponentSection { .. } => frames.push(Frame::default()),
            Payload::End(_) => self.end(frames),
            Payload::CustomSection(section) => {
                if let KnownCustom::Producers(producers) = section.as_known() {
                    self.note_producers(producers)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    if at_border {
                        self.imports.push(import.name.name.to_owned());
                    }
                    match import.ty {
                        ComponentTypeRef::Module(_) => last(frames).modules.push(Needs::default()),
                        ComponentTypeRef::Component(_) => last(frames).components.push(Needs::default()),
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    if at_border {
                        self.exports.push(export.name.name.to_owned());
                    }
                    // An export is the same thing under another number.
                    add_numbered(frames, export.kind, 0, export.index);
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    add_alias(frames, &alias?);
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        let needs = numbered(&last(frames).modules, module_index);
                        last(frames).needs.add(needs);
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        let needs = numbered(&last(frames).components, component_index);
                        last(frames).needs.add(needs);
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory?;
                    let page = memory.page_size_log2.map_or(PAGE_BYTES, |log2| 1 << log2.min(16));
                    let bytes = memory.initial.saturating_mul(page);
                    last(frames).needs.add(Needs { memories: 1, memory_bytes: bytes, ..Needs::default() });
                }
            }
            Payload::TableSection(section) => {
                last(frames).needs.add(Needs { tables: section.count(), ..Needs::default() });
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, frames: &mut Vec<Frame>) {
        let Some(mut ended) = frames.pop() else { return };
        let Some(parent) = frames.last_mut() else {
            self.needs = ended.needs;
            return;
        };
        if ended.is_module {
            ended.needs.instances = 1;
            parent.modules.push(ended.needs);
        } else {
            parent.components.push(ended.needs);
        }
    }

    fn note_producers(&mut self, producers: ProducersSectionReader<'_>) -> Result<(), BinaryReaderError> {
        for field in producers {
            let field = field?;
            let into = if field.name == "language" { &mut self.languages } else { &mut self.tools };
            for value in field.values {
                let value = value?;
                into.insert(format!("{} {}", value.name, value.version).trim_end().to_owned());
            }
        }
        Ok(())
    }

    /// What tools have noted, the languages first.
    pub(super) fn made_with(&self) -> Vec<String> {
        self.languages.iter().chain(&self.tools).cloned().collect()
    }
}

/// The one that is being read. There always is one: the file itself ends last.
fn last(frames: &mut Vec<Frame>) -> &mut Frame {
    if frames.is_empty() {
        frames.push(Frame::default());
    }
    let at = frames.len() - 1;
    #[expect(clippy::indexing_slicing, reason = "it is not empty")]
    &mut frames[at]
}

fn numbered(needs: &[Needs], number: u32) -> Needs {
    needs.get(number as usize).copied().unwrap_or_default()
}

/// Gives a module or component, of the frame so many levels out, one more number in the last frame.
fn add_numbered(frames: &mut Vec<Frame>, kind: ComponentExternalKind, outwards: u32, number: u32) {
    let at = frames.len().checked_sub(1 + outwards as usize);
    let source = at.and_then(|at| frames.get(at));
    match kind {
        ComponentExternalKind::Module => {
            let needs = source.map_or(Needs::default(), |frame| numbered(&frame.modules, number));
            last(frames).modules.push(needs);
        }
        ComponentExternalKind::Component => {
            let needs = source.map_or(Needs::default(), |frame| numbered(&frame.components, number));
            last(frames).components.push(needs);
        }
        _ => {}
    }
}

fn add_alias(frames: &mut Vec<Frame>, alias: &ComponentAlias<'_>) {
    match alias {
        ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, count, index } => {
            add_numbered(frames, ComponentExternalKind::Module, *count, *index);
        }
        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
            add_numbered(frames, ComponentExternalKind::Component, *count, *index);
        }
        // What an instance hands out is not followed.
        ComponentAlias::InstanceExport { kind, .. } => add_numbered(frames, *kind, u32::MAX, 0),
        _ => {}
    }
}
