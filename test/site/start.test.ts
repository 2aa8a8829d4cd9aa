/** A coordinator that can't start, and programs whose starter died: neither stays. */
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { CHECKOUT, startProgram } from '../demo/process.ts'
import { until } from './harness.ts'

function configure(t: Test, listen: string): { readonly dir: string; readonly file: string } {
  const dir = mkdtempSync(join(tmpdir(), 'smith-start-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'coordinator.toml')
  const lines = [`listen = "${listen}"`, `state_dir = "${dir}/state"`, `admin_socket = "${dir}/admin.sock"`]
  writeFileSync(file, `instance = "start"\n${lines.join('\n')}\n[change]\nprovider = "local"\n`)
  return { dir, file }
}

t.test('[SIT-12] a coordinator that gets no place to listen says why and ends', async (t) => {
  const taken = createServer()
  await new Promise<void>((resolve) => void taken.listen(0, '127.0.0.1', resolve))
  t.teardown(() => taken.close())
  const { port } = taken.address() as AddressInfo
  // 192.0.2.0/24 is for documentation (RFC 5737), so no machine has it.
  for (const [listen, says] of [
    [`127.0.0.1:${port}`, /in use by another program/],
    ['192.0.2.1:7600', /no such address/],
  ] as const) {
    const { dir, file } = configure(t, listen)
    const program = startProgram('coordinator/main.ts', ['run', '--config', file], { log: join(dir, 'log') })
    t.teardown(() => program.stop('SIGKILL'))
    const said = program.line((line) => says.test(line))
    t.match(await said, says)
    t.match(await program.ended, { status: 1, signal: null })
  }
})

t.test('[SIT-13] what a test or a demo has started ends with it, also when it was killed', async (t) => {
  const { dir, file } = configure(t, '127.0.0.1:0')
  const script = `
    import { startProgram } from '${CHECKOUT}test/demo/process.ts'
    const program = startProgram('coordinator/main.ts', ['run', '--config', '${file}'], { log: '${dir}/log' })
    await program.line((line) => line.includes('"msg":"listening"'))
    console.log(program.pid)
    setInterval(() => {}, 1000)`
  const { NODE_OPTIONS: _loaders, ...env } = process.env
  const starter = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => starter.kill('SIGKILL'))
  const pid = await new Promise<string>((resolve) =>
    starter.stdout.setEncoding('utf8').once('data', (text: string) => resolve(text.trim())),
  )
  const isAlive = () =>
    execFileSync('ps', ['-eo', 'pid=,stat='], { encoding: 'utf8' })
      .split('\n')
      .some((line) => new RegExp(`^\\s*${pid} [^Z]`).test(line))
  t.match(readFileSync(`/proc/${pid}/cmdline`, 'utf8'), 'coordinator/main.ts')
  starter.kill('SIGKILL')
  await until('the end of the coordinator', () => !isAlive())
  t.notOk(isAlive())
})
