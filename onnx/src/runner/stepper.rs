//! A loop that feeds an output back to an input.

use super::{Port, Runner};
use crate::error::{Error, Result};
use crate::types::Tensor;

/// The ports and first values of a [`StepLoop`].
#[derive(Clone, Debug)]
pub struct LoopSpec<'a> {
    /// The input that receives the state.
    pub input: &'a str,
    /// The output that is the next state, of the same type and shape.
    pub output: &'a str,
    /// The first state.
    pub state: &'a Tensor,
    /// A first value for every other input; [`StepLoop::set`] replaces it by one of the same shape.
    pub others: Vec<(&'a str, &'a Tensor)>,
}

/// A loop whose state goes from an output back to an input.
pub trait StepLoop {
    /// Replaces the value of an input other than the state by one of the same shape, for all later steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no such input, [`Error::Shape`] when the shape changes.
    fn set(&mut self, input: &str, value: &Tensor) -> Result<()>;

    /// Runs the model once; its output is the state of the next step.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] and [`Error::Run`] from the runtime.
    fn step(&mut self) -> Result<()>;

    /// The state, copied to the host.
    ///
    /// # Errors
    /// [`Error::Run`] from the runtime.
    fn state(&mut self) -> Result<Tensor>;
}

/// Checks that the state can go from the output to the input.
pub(crate) fn check_state(runner: &dyn Runner, spec: &LoopSpec<'_>) -> Result<()> {
    let find = |ports: &[Port], name: &str, kind: &str| {
        ports.iter().find(|port| port.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            Error::invalid(format!("loop {kind}"), format!("one of {}", names.join(", ")), name, "")
        })
    };
    let input = find(runner.inputs(), spec.input, "input")?;
    let output = find(runner.outputs(), spec.output, "output")?;
    if input.element != output.element || input.shape != output.shape {
        return Err(Error::invalid(
            "loop state",
            format!("an output like {input}"),
            output.to_string(),
            "the state keeps its type and shape",
        ));
    }
    Ok(())
}

/// The loop for a runtime that takes and returns host tensors only.
pub struct HostLoop<'a> {
    runner: &'a mut dyn Runner,
    input: String,
    output: String,
    state: Tensor,
    others: Vec<(String, Tensor)>,
}

impl<'a> HostLoop<'a> {
    /// A loop around any runner.
    ///
    /// # Errors
    /// As [`Runner::step_loop`].
    pub fn new(runner: &'a mut dyn Runner, spec: &LoopSpec<'_>) -> Result<Self> {
        check_state(runner, spec)?;
        let mut inputs = spec.others.clone();
        inputs.push((spec.input, spec.state));
        super::match_inputs(runner.inputs(), &inputs)?;
        Ok(HostLoop {
            runner,
            input: spec.input.to_owned(),
            output: spec.output.to_owned(),
            state: spec.state.clone(),
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
        let mut inputs: Vec<(&str, &Tensor)> =
            self.others.iter().map(|(name, value)| (name.as_str(), value)).collect();
        inputs.push((&self.input, &self.state));
        let outputs = self.runner.run(&inputs)?;
        let next = outputs.into_iter().find(|(name, _)| *name == self.output);
        let (_, next) = next.ok_or_else(|| unknown_input(&self.output))?;
        check_same(&self.output, self.state.shape(), &next)?;
        self.state = next;
        Ok(())
    }

    fn state(&mut self) -> Result<Tensor> {
        Ok(self.state.clone())
    }
}

pub(crate) fn unknown_input(name: &str) -> Error {
    Error::invalid("loop input", "an input of the model other than the state", name, "")
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
