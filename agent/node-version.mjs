// Ends the process with a clear message when Node is too old to run smith. Loaded before anything else; plain
// JavaScript of an old kind, since an old Node must be able to read it.
const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 18) || (major === 23 && minor < 6)) {
  process.stderr.write(
    `error: smith-agent needs Node 22.18 or newer, and this is Node ${process.versions.node}.\n` +
      '   do: Install Node 24; or, in a checkout, run `npm run setup`, which brings its own.\n',
  )
  process.exit(1)
}
