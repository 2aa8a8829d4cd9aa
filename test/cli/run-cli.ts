/** Runs the real programs as processes, with a home of their own, with and without a terminal. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { execa } from 'execa'
import { TOKEN, startFake } from './fake-coordinator.ts'

export const CLI = fileURLToPath(new URL('../../coordinator/cli/', import.meta.url))
/** The programs that the tests start are compiled once for all of them, where `npm test` says where. */
const { NODE_COMPILE_CACHE } = process.env
export const COMPILED = NODE_COMPILE_CACHE === undefined ? {} : { NODE_COMPILE_CACHE }
export type Ended = { readonly status: number | undefined; readonly out: string; readonly err: string }
export type Home = {
  readonly path: string
  readonly config: string
  readonly run: (
    args: readonly string[],
    options?: { input?: string; program?: string; env?: object },
  ) => Promise<Ended>
  readonly start: (args: readonly string[]) => ReturnType<typeof startProcess>
  /** On a terminal (script(1) makes it); what is typed comes from `input`. */
  readonly terminal: (
    args: readonly string[],
    options?: { input?: string | Promise<string>; env?: object; columns?: number },
  ) => Promise<Ended>
  readonly remove: () => void
}

/** A coordinator as the file of a person's CLI names it; without a token with that of the fake one. */
type Known = { readonly url: string; readonly pin: string; readonly token?: string }

/** Instances of the configuration, by name; none leaves no file. */
export function makeHome(instances: Readonly<Record<string, Known>>, more = ''): Home {
  const path = mkdtempSync(join(tmpdir(), 'smith-home-'))
  const config = join(path, '.config', 'smith', 'config.toml')
  const tables = Object.entries(instances).map(
    ([name, { url, pin, token = TOKEN }]) =>
      `[instances.${name}]\nurl = "${url}"\npin = "${pin}"\ntoken = "${token}"\n`,
  )
  if (tables.length > 0) {
    mkdirSync(join(path, '.config', 'smith'), { recursive: true })
    writeFileSync(config, more + tables.join('\n'), { mode: 0o600 })
  }
  const locale = { TZ: 'UTC', LANG: 'C.UTF-8', TERM: 'xterm' }
  const baseEnv = { HOME: path, PATH: process.env['PATH'] ?? '', ...locale, ...COMPILED }
  const ended = (result: { exitCode?: number; stdout: string; stderr: string }): Ended => ({
    status: result.exitCode,
    out: result.stdout,
    err: result.stderr,
  })
  const start = (args: readonly string[], env: object = {}, program = 'smith.ts', input?: string) =>
    startProcess([`${CLI}${program}`, ...args], { ...baseEnv, ...env }, input)
  return {
    path,
    config,
    start: (args) => start(args),
    run: async (args, options = {}) => ended(await start(args, options.env, options.program, options.input)),
    terminal: async (args, options = {}) => {
      const words = [process.execPath, `${CLI}smith.ts`, ...args].map((word) => `'${word.replaceAll("'", `'\\''`)}'`)
      const size = `stty cols ${options.columns ?? 100} rows 40; `
      const child = execa('script', ['-qefc', `${size}exec ${words.join(' ')}`, '/dev/null'], {
        reject: false,
        stripFinalNewline: false,
        extendEnv: false,
        env: { ...baseEnv, ...options.env },
        timeout: 60_000,
        stdin: 'pipe',
      })
      child.stdin.end(await (options.input ?? ''))
      const result = await child
      const { exitCode, stdout, stderr } = result
      return ended({ ...(exitCode === undefined ? {} : { exitCode }), stdout: stdout.replaceAll('\r\n', '\n'), stderr })
    },
    remove: () => rmSync(path, { recursive: true, force: true }),
  }
}

function startProcess(args: readonly string[], env: Record<string, string>, input: string | undefined) {
  return execa(process.execPath, args, {
    reject: false,
    stripFinalNewline: false,
    extendEnv: false,
    env,
    timeout: 60_000,
    input: input ?? '',
  })
}

/** A coordinator and a home that knows it, gone after the test. */
export async function setUp(t: { readonly teardown: (fn: () => Promise<void>) => void }) {
  const fake = await startFake()
  const home = makeHome({ prod: fake })
  t.teardown(async () => {
    home.remove()
    await fake.close()
  })
  return { fake, home }
}

/** The lines as a program prints them. */
export const golden = (lines: readonly string[]) => `${lines.join('\n')}\n`
