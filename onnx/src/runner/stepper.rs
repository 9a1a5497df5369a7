//! A loop that feeds outputs back to inputs.

use super::{Port, Runner};
use crate::error::{Error, Result};
use crate::types::Tensor;

/// The ports and first values of a [`StepLoop`].
#[derive(Clone, Debug)]
pub struct LoopSpec<'a> {
    /// What goes from an output back to an input.
    pub states: Vec<Carried<'a>>,
    /// A first value for every other input; [`StepLoop::set`] replaces it by one of the same shape.
    pub others: Vec<(&'a str, &'a Tensor)>,
    /// Outputs that are no state's and are wanted after a step: [`StepLoop::output`]. Their lengths are
    /// known.
    pub wanted: Vec<&'a str>,
}

/// One state of a loop.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// The input that receives the state.
    pub input: &'a str,
    /// The output that is the next state, of the same type and shape.
    pub output: &'a str,
    /// The first state.
    pub first: &'a Tensor,
}

impl<'a> LoopSpec<'a> {
    /// Every input with its first value.
    pub(crate) fn inputs(&self) -> Vec<(&'a str, &'a Tensor)> {
        let states = self.states.iter().map(|state| (state.input, state.first));
        self.others.iter().copied().chain(states).collect()
    }
}

/// A loop whose states go from outputs back to inputs.
pub trait StepLoop {
    /// Replaces the value of an input other than the states by one of the same shape, for all later steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no such input, [`Error::Shape`] when the shape changes.
    fn set(&mut self, input: &str, value: &Tensor) -> Result<()>;

    /// Runs the model once; its outputs are the states of the next step.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Run`] from the runtime.
    fn step(&mut self) -> Result<()>;

    /// The state that goes into this input, copied to the host.
    ///
    /// # Errors
    /// [`Error::Invalid`] when that is no state's, [`Error::Run`] from the runtime.
    fn state(&mut self, input: &str) -> Result<Tensor>;

    /// The last step's value of a [wanted](LoopSpec::wanted) output, copied to the host; of no meaning before
    /// the first step.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the output is none of these, [`Error::Run`] from the runtime.
    fn output(&mut self, name: &str) -> Result<Tensor>;
}

/// Checks that there are states and that each can go from its output to its input, and that the wanted
/// outputs are there.
pub(crate) fn check_states(runner: &dyn Runner, spec: &LoopSpec<'_>) -> Result<()> {
    if spec.states.is_empty() {
        return Err(Error::invalid("loop states", "at least one", "none", ""));
    }
    let find = |ports: &[Port], name: &str, kind: &str| {
        ports.iter().find(|port| port.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            Error::invalid(format!("loop {kind}"), format!("one of {}", names.join(", ")), name, "")
        })
    };
    for state in &spec.states {
        let input = find(runner.inputs(), state.input, "input")?;
        let output = find(runner.outputs(), state.output, "output")?;
        if input.element != output.element || input.shape != output.shape {
            return Err(Error::invalid(
                "loop state",
                format!("an output like {input}"),
                output.to_string(),
                "the state keeps its type and shape",
            ));
        }
    }
    for name in &spec.wanted {
        known_lengths(&find(runner.outputs(), name, "output")?)?;
    }
    Ok(())
}

/// The lengths of a wanted output, which its port has to know.
pub(crate) fn known_lengths(port: &Port) -> Result<Vec<usize>> {
    port.shape.as_ref().and_then(|shape| shape.known()).ok_or_else(|| {
        Error::invalid("a loop's wanted output", "one whose lengths are known", port.to_string(), "")
    })
}

/// The loop for a runtime that takes and returns host tensors only.
pub struct HostLoop<'a> {
    runner: &'a mut dyn Runner,
    states: Vec<HostState>,
    others: Vec<(String, Tensor)>,
    wanted: Vec<(String, Tensor)>,
}

struct HostState {
    input: String,
    output: String,
    now: Tensor,
}

impl<'a> HostLoop<'a> {
    /// A loop around any runner.
    ///
    /// # Errors
    /// As [`Runner::step_loop`].
    pub fn new(runner: &'a mut dyn Runner, spec: &LoopSpec<'_>) -> Result<Self> {
        check_states(runner, spec)?;
        super::match_inputs(runner.inputs(), &spec.inputs())?;
        let state = |state: &Carried<'_>| HostState {
            input: state.input.to_owned(),
            output: state.output.to_owned(),
            now: state.first.clone(),
        };
        let wanted = |name: &&str| {
            let port = runner.outputs().iter().find(|port| port.name == **name);
            let shape = known_lengths(port.ok_or_else(|| unknown_output(name))?)?;
            let zeros = vec![0.0; shape.iter().product()];
            Ok(((*name).to_owned(), Tensor::f32(shape, zeros)?))
        };
        Ok(HostLoop {
            wanted: spec.wanted.iter().map(wanted).collect::<Result<_>>()?,
            runner,
            states: spec.states.iter().map(state).collect(),
            others: spec.others.iter().map(|(name, value)| ((*name).to_owned(), (*value).clone())).collect(),
        })
    }
}

impl StepLoop for HostLoop<'_> {
    fn set(&mut self, input: &str, value: &Tensor) -> Result<()> {
        let slot = self.others.iter_mut().find(|(name, _)| name == input);
        let (_, slot) = slot.ok_or_else(|| unknown_input(input))?;
        check_same(input, slot.shape(), value)?;
        *slot = value.clone();
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let others = self.others.iter().map(|(name, value)| (name.as_str(), value));
        let states = self.states.iter().map(|state| (state.input.as_str(), &state.now));
        let inputs: Vec<(&str, &Tensor)> = others.chain(states).collect();
        let mut outputs = self.runner.run(&inputs)?;
        for state in &mut self.states {
            let place = outputs.iter().position(|(name, _)| *name == state.output);
            let (_, next) = outputs.swap_remove(place.ok_or_else(|| unknown_input(&state.output))?);
            check_same(&state.output, state.now.shape(), &next)?;
            state.now = next;
        }
        for (name, value) in &mut self.wanted {
            let place = outputs.iter().position(|(output, _)| output == name);
            (_, *value) = outputs.swap_remove(place.ok_or_else(|| unknown_output(name))?);
        }
        Ok(())
    }

    fn state(&mut self, input: &str) -> Result<Tensor> {
        let state = self.states.iter().find(|state| state.input == input);
        state.map(|state| state.now.clone()).ok_or_else(|| unknown_state(input))
    }

    fn output(&mut self, name: &str) -> Result<Tensor> {
        let wanted = self.wanted.iter().find(|(wanted, _)| wanted == name);
        wanted.map(|(_, value)| value.clone()).ok_or_else(|| unknown_output(name))
    }
}

pub(crate) fn unknown_input(name: &str) -> Error {
    Error::invalid("loop input", "an input of the model other than the states", name, "")
}

pub(crate) fn unknown_state(name: &str) -> Error {
    Error::invalid("loop state", "the input of one of the loop's states", name, "")
}

pub(crate) fn unknown_output(name: &str) -> Error {
    Error::invalid("loop output", "one that the loop was asked for", name, "")
}

pub(crate) fn check_same(name: &str, shape: &[usize], value: &Tensor) -> Result<()> {
    if shape == value.shape() {
        return Ok(());
    }
    Err(Error::Shape {
        what: format!("loop value {name}"),
        left: shape.into(),
        right: value.shape().into(),
        rule: "a loop's values keep their shapes",
    })
}
