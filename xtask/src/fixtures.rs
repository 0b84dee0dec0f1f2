pub fn ensure() -> anyhow::Result<()> { Ok(()) }
