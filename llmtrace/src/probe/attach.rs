//! Loads and attaches the programs of a plan, one by one.

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, RawTracePoint},
};

use super::{
    ProbeError, heap,
    plan::{Attachment, Hook, Plan, Refusal},
};

/// The kernel's types as aya wants them, read when the first program needs them: they are large.
#[derive(Default)]
pub struct KernelTypes(Option<Btf>);

impl KernelTypes {
    fn get(&mut self) -> Result<&Btf, String> {
        if self.0.is_none() {
            let path = super::types::btf_path();
            let btf = Btf::parse_file(path, aya::Endianness::default()).map_err(|e| chain(&e))?;
            self.0 = Some(btf);
        }
        self.0.as_ref().ok_or_else(|| "no types".into())
    }
}

impl Drop for KernelTypes {
    fn drop(&mut self) {
        self.0 = None;
        heap::give_back();
    }
}

/// A hook that capture can do without, and why it has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub program: &'static str,
    pub reason: String,
}

/// Attaches what has to be attached whatever the hooks are.
pub fn lifecycle(
    ebpf: &mut Ebpf,
    types: &mut KernelTypes,
    attachments: &[Attachment],
    missing: &mut Vec<Missing>,
) -> Result<(), ProbeError> {
    for attachment in attachments {
        let program = attachment.program;
        match one(ebpf, types, attachment) {
            Ok(()) => {}
            Err(reason) if attachment.needed => return Err(ProbeError::Attach { program, reason }),
            Err(reason) => missing.push(Missing { program, reason }),
        }
    }
    Ok(())
}

/// Attaches the first of the plans that the kernel takes. Those that it does not take are added to
/// `refused`.
pub fn first_of<'a>(
    ebpf: &mut Ebpf,
    types: &mut KernelTypes,
    plans: &'a [Plan],
    refused: &mut Vec<Refusal>,
    missing: &mut Vec<Missing>,
) -> Option<&'a Plan> {
    plans.iter().find(|plan| match whole(ebpf, types, plan) {
        Ok(without) => {
            missing.extend(without);
            true
        }
        Err(reason) => {
            for attachment in &plan.attachments {
                unload(ebpf, attachment);
            }
            refused.push(Refusal { hooks: plan.hooks, reason });
            false
        }
    })
}

/// Attaches a set of hooks beside a plan: those of it that are needed, or nothing.
pub fn all(
    ebpf: &mut Ebpf,
    types: &mut KernelTypes,
    attachments: &[Attachment],
) -> Result<(), String> {
    for attachment in attachments {
        if let Err(reason) = one(ebpf, types, attachment)
            && attachment.needed
        {
            for attachment in attachments {
                unload(ebpf, attachment);
            }
            return Err(format!("{}: {reason}", attachment.hook.place()));
        }
    }
    Ok(())
}

/// All of a plan. Everything is loaded before anything is attached: a refusal mostly comes at load.
fn whole(ebpf: &mut Ebpf, types: &mut KernelTypes, plan: &Plan) -> Result<Vec<Missing>, String> {
    let (mut loaded, mut missing) = (Vec::new(), Vec::new());
    for attachment in &plan.attachments {
        match load(ebpf, types, attachment) {
            Ok(()) => loaded.push(attachment),
            Err(reason) if attachment.needed => {
                return Err(format!("{} does not load: {reason}", attachment.program));
            }
            Err(reason) => missing.push(Missing { program: attachment.program, reason }),
        }
    }
    for attachment in loaded {
        match attach(ebpf, attachment) {
            Err(reason) if attachment.needed => {
                return Err(format!("{} cannot be attached: {reason}", attachment.hook.place()));
            }
            Err(reason) => missing.push(Missing { program: attachment.program, reason }),
            Ok(()) => {}
        }
    }
    Ok(missing)
}

/// Loads and attaches one program.
pub fn one(
    ebpf: &mut Ebpf,
    types: &mut KernelTypes,
    attachment: &Attachment,
) -> Result<(), String> {
    load(ebpf, types, attachment)?;
    attach(ebpf, attachment)
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, String>
where
    &'a mut T: TryFrom<&'a mut Program, Error = aya::programs::ProgramError>,
{
    let program =
        ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    program.try_into().map_err(|e: aya::programs::ProgramError| e.to_string())
}

fn load(ebpf: &mut Ebpf, types: &mut KernelTypes, a: &Attachment) -> Result<(), String> {
    let loaded = match a.hook {
        Hook::RawTracepoint(_) => program::<RawTracePoint>(ebpf, a.program)?.load(),
        Hook::BtfTracepoint(at) => {
            program::<BtfTracePoint>(ebpf, a.program)?.load(at, types.get()?)
        }
        Hook::Fentry(at) => program::<FEntry>(ebpf, a.program)?.load(at, types.get()?),
        Hook::Fexit(at) => program::<FExit>(ebpf, a.program)?.load(at, types.get()?),
        Hook::Kprobe(_) | Hook::Kretprobe(_) => {
            let program = program::<KProbe>(ebpf, a.program)?;
            // One may be for several functions.
            if program.fd().is_ok() { Ok(()) } else { program.load() }
        }
    };
    loaded.map_err(|e| chain(&e))
}

fn attach(ebpf: &mut Ebpf, a: &Attachment) -> Result<(), String> {
    let attached = match a.hook {
        Hook::RawTracepoint(at) => program::<RawTracePoint>(ebpf, a.program)?.attach(at).map(drop),
        Hook::BtfTracepoint(_) => program::<BtfTracePoint>(ebpf, a.program)?.attach().map(drop),
        Hook::Fentry(_) => program::<FEntry>(ebpf, a.program)?.attach().map(drop),
        Hook::Fexit(_) => program::<FExit>(ebpf, a.program)?.attach().map(drop),
        Hook::Kprobe(at) | Hook::Kretprobe(at) => {
            program::<KProbe>(ebpf, a.program)?.attach(at, 0).map(drop)
        }
    };
    attached.map_err(|e| chain(&e))
}

/// Takes a program out of the kernel again, and with it what it is attached to.
pub fn unload(ebpf: &mut Ebpf, a: &Attachment) {
    // One that was not loaded is an error, which says what is wanted.
    let _ = match ebpf.program_mut(a.program) {
        Some(Program::RawTracePoint(program)) => program.unload(),
        Some(Program::BtfTracePoint(program)) => program.unload(),
        Some(Program::FEntry(program)) => program.unload(),
        Some(Program::FExit(program)) => program.unload(),
        Some(Program::KProbe(program)) => program.unload(),
        _ => Ok(()),
    };
}

/// An error with what caused it, in one line. A verifier's log is long: its last lines say why.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    if std::env::var_os("LLMTRACE_VERIFIER_LOG").is_some() {
        return text;
    }
    let figures = ["verification time", "stack depth", "processed "];
    let says = |l: &&str| !l.is_empty() && !figures.iter().any(|f| l.starts_with(f));
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(says).collect();
    if lines.len() > 3 {
        lines.drain(1..lines.len() - 2);
    }
    let text = lines.join(" | ");
    text.trim_end_matches(" Verifier output:").trim_end_matches('.').to_owned()
}
