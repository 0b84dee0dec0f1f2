//! TLS that the kernel does: its hooks are on functions of a module, which is loaded when the first
//! process hands the kernel its keys and may be unloaded again.

use aya::Ebpf;

use super::{
    attach::{self, KernelTypes},
    features::{self, Features},
    plan::{Attachment, Plan},
};

/// The hooks of a plan that see plaintext of such sockets.
#[derive(Debug, Default)]
pub struct Ktls {
    hooks: Vec<Attachment>,
    /// Attached with the first such socket of a target.
    on_first: Option<Attachment>,
    built_in: bool,
    state: State,
    watches_returns: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The kernel does no TLS, as far as it has come.
    #[default]
    Absent,
    Attached,
    /// It does, and it is not seen.
    Unseen,
}

impl Ktls {
    pub fn new(plan: &Plan, features: &Features) -> Self {
        Self {
            hooks: plan.ktls.clone(),
            on_first: plan.on_ktls,
            built_in: features.ktls_built_in,
            state: State::Absent,
            watches_returns: false,
        }
    }

    /// Whether every return of a target's system calls is looked at.
    pub fn watches_returns(&self) -> bool {
        self.watches_returns
    }

    /// Whether plaintext of such sockets is seen, if there are any.
    pub fn is_seen(&self) -> bool {
        !self.hooks.is_empty() && self.state != State::Unseen
    }

    /// Attaches what is wanted when the module is there, lets go when it is not. Returns what
    /// people should know of it.
    pub fn follow(&mut self, ebpf: &mut Ebpf) -> Option<String> {
        let here = self.built_in || features::has_ktls_module();
        match (here, self.state) {
            (true, State::Absent) => {
                let attached = if self.hooks.is_empty() {
                    Err("these hooks do not see it".to_owned())
                } else {
                    attach::all(ebpf, &mut KernelTypes::default(), &self.hooks)
                };
                Some(match attached {
                    Ok(()) => {
                        self.state = State::Attached;
                        "in the kernel (kTLS): attached".into()
                    }
                    Err(reason) => {
                        self.state = State::Unseen;
                        format!("in the kernel (kTLS): not traced: {reason}")
                    }
                })
            }
            (false, State::Attached | State::Unseen) => {
                for hook in &self.hooks {
                    attach::unload(ebpf, hook);
                }
                self.state = State::Absent;
                None
            }
            _ => None,
        }
    }

    /// A socket of that kind is traced. Returns what people should know.
    pub fn watch(&mut self, ebpf: &mut Ebpf) -> Option<String> {
        let hook = self.on_first.take()?;
        let attached = attach::one(ebpf, &mut KernelTypes::default(), &hook);
        self.watches_returns = attached.is_ok();
        let failed = |reason| format!("in the kernel (kTLS): some reads may be missed: {reason}");
        attached.err().map(failed)
    }
}
