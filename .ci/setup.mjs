// Makes a bare checkout ready: installs the locked dependencies, Node 24 among them, when they are missing or stale.
// It runs before every npm script, under whatever Node (18 or newer) the machine has, so it uses nothing but Node itself.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, rmdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Many times what the installation takes, and short enough for somebody who waits. */
const TRY_MS = 300_000
const TRIES = 3

const root = fileURLToPath(new URL('..', import.meta.url))
const stamp = `${root}node_modules/.smith-setup`
const want = createHash('sha256')
  .update(readFileSync(`${root}package-lock.json`))
  .update(`${process.platform}-${process.arch}`)
  .digest('hex')
const isReady = () =>
  existsSync(stamp) && readFileSync(stamp, 'utf8') === want && existsSync(`${root}node_modules/.bin/node`)

if (!isReady()) {
  const lock = `${root}.setup-lock`
  let waited = 0
  for (;;) {
    // mkdir either makes the folder or fails, so of two set-ups at once exactly one installs.
    try {
      mkdirSync(lock)
      break
    } catch (error) {
      if (error.code !== 'EEXIST') {
        console.error(`smith: cannot write to ${root}: ${error.message}`)
        console.error('smith: run this in a checkout that you own')
        process.exit(1)
      }
      if (waited === 0) console.error('smith: another set-up is at work here, waiting for it ...')
      if (isReady()) process.exit(0)
      if ((waited += 1) > 1200) {
        console.error(`smith: the other set-up did not end; if none runs, remove ${lock} and start again`)
        process.exit(1)
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500)
    }
  }
  // A set-up stopped by Ctrl-C must not leave its lock behind.
  const unlock = () => existsSync(lock) && rmdirSync(lock)
  process.on('exit', unlock)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1))
  if (!isReady()) {
    console.error('smith: installing dependencies (npm ci) ...')
    const npm = process.env.npm_execpath
    const args = ['ci', '--ignore-scripts', '--include=dev', '--include=optional']
    const options = {
      cwd: root,
      stdio: ['ignore', 2, 2],
      timeout: TRY_MS,
      // One that hangs was seen to outlive a SIGTERM.
      killSignal: 'SIGKILL',
      env: {
        npm_config_fetch_timeout: '60000',
        npm_config_fetch_retry_mintimeout: '2000',
        npm_config_fetch_retry_maxtimeout: '5000',
        ...process.env,
        npm_config_loglevel: 'error',
        npm_config_audit: 'false',
        npm_config_fund: 'false',
        npm_config_update_notifier: 'false',
      },
    }
    const install = async () => {
      const child = npm ? spawn(process.execPath, [npm, ...args], options) : spawn('npm', args, options)
      // Whoever stops the set-up stops npm with it.
      process.once('exit', () => child.kill('SIGKILL'))
      try {
        const [status] = await once(child, 'exit')
        return status
      } catch (error) {
        console.error(`smith: npm can't be started (${error.message}); install it, on Debian: apt install npm`)
        process.exit(1)
      }
    }
    let status = await install()
    // A download that stands still ends with an error after fetch_timeout, or never; what has come is kept by npm.
    for (let again = 2; status !== 0 && again <= TRIES; again += 1) {
      console.error(`smith: npm ci failed; trying again (${again} of ${TRIES}) ...`)
      status = await install()
    }
    if (status !== 0) {
      console.error('smith: npm ci failed (its messages stand above); smith needs the npm registry for its first start')
      process.exit(status ?? 1)
    }
    const bin = `node_modules/node-${process.platform}-${process.arch}/bin/node`
    if (!existsSync(root + bin) && !existsSync(`${root}node_modules/.bin/node`)) {
      console.error(
        `smith: there is no Node 24 package for ${process.platform}-${process.arch}; smith runs on linux x64 and arm64`,
      )
      process.exit(1)
    }
    // npm 10 leaves this link out for optional dependencies.
    if (!existsSync(`${root}node_modules/.bin/node`)) symlinkSync(`../../${bin}`, `${root}node_modules/.bin/node`)
    writeFileSync(stamp, want)
  }
}
