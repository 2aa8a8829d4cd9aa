/**
 * Runs a program of the machine that carries the hosts (ip, mount, nsenter, ...) and says what came of it. Called by
 * every file of this folder. The environment is a bare one, so that neither a test runner's loaders nor a person's
 * locale reach what is started.
 */
import { execa } from 'execa'

export type Ran = { readonly status: number; readonly stdout: string; readonly stderr: string }
export type RunOptions = {
  readonly input?: string | Uint8Array
  /** After so long it is killed and its status is -1. */
  readonly timeoutMs?: number
  readonly env?: Readonly<Record<string, string>>
}

export const BARE_ENVIRONMENT: Readonly<Record<string, string>> = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  LC_ALL: 'C.UTF-8',
  HOME: '/root',
}
const GIVE_UP_MS = 300_000

/** Never throws for an exit status. */
export async function run(argv: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const [program = '', ...args] = argv
  const ran = await execa(program, args, {
    reject: false,
    stripFinalNewline: false,
    extendEnv: false,
    cwd: '/',
    env: { ...BARE_ENVIRONMENT, ...options.env },
    // What is bounded on a host gets its chance to be killed there first.
    timeout: options.timeoutMs === undefined ? GIVE_UP_MS : options.timeoutMs + 1000,
    ...(options.input === undefined ? { stdin: 'ignore' as const } : { input: options.input }),
  })
  const why = ran.exitCode === undefined ? `\n${ran.shortMessage}` : ''
  return { status: ran.exitCode ?? -1, stdout: ran.stdout, stderr: `${ran.stderr}${why}` }
}

/** The output of a program that must do its work. */
export async function must(argv: readonly string[], options: RunOptions = {}): Promise<string> {
  const ran = await run(argv, options)
  if (ran.status !== 0)
    throw new Error(`${argv.join(' ')} ended with ${ran.status}: ${ran.stderr.trim() || ran.stdout.trim()}`)
  return ran.stdout
}

/** Looks until there is an answer; the bound only ends what would hang. */
export async function until<Value>(
  what: string,
  look: () => Promise<Value | undefined | false | null> | Value | undefined | false | null,
  giveUpMs = GIVE_UP_MS,
): Promise<Value> {
  const end = performance.now() + giveUpMs
  for (;;) {
    const found = await look()
    if (found !== undefined && found !== false && found !== null) return found
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
