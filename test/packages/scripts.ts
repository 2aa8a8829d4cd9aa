/**
 * Runs a maintainer script for a try: every absolute path in it is moved below a folder, and every program that could
 * touch the machine is one that only writes down how it was called.
 */
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export type DryOptions = {
  readonly dir: string
  /** Where the files of the package are. */
  readonly tree: string
  /** The run that the script is part of. */
  readonly order: string | null
  /** A machine without systemd and Debian's helpers for it. */
  readonly bare?: boolean
}

const ALWAYS = ['useradd', 'groupadd', 'install', 'getent', 'sleep']
const SYSTEMD = ['systemctl', 'deb-systemd-helper', 'deb-systemd-invoke', 'systemd-sysusers', 'systemd-tmpfiles']
/** The real ones. */
const HARMLESS = ['sh', 'flock', 'sed', 'cat', 'mkdir', 'rm', 'rmdir', 'true', 'echo']

export function dryRun(
  script: string,
  args: readonly string[],
  options: DryOptions,
): { readonly status: number; readonly calls: readonly string[] } {
  const { dir } = options
  const bin = join(dir, '.bin')
  const calls = join(dir, '.calls')
  rmSync(bin, { recursive: true, force: true })
  rmSync(calls, { force: true })
  mkdirSync(bin, { recursive: true })
  for (const name of [...ALWAYS, ...(options.bare === true ? [] : SYSTEMD)]) {
    // getent finds nobody, so accounts are made.
    writeFileSync(join(bin, name), `#!/bin/sh\necho "${name} $*" >>'${calls}'\n[ ${name} != getent ]\n`)
    chmodSync(join(bin, name), 0o755)
  }
  for (const name of HARMLESS)
    symlinkSync(existsSync(`/usr/bin/${name}`) ? `/usr/bin/${name}` : `/bin/${name}`, join(bin, name))
  if (options.bare !== true) mkdirSync(join(dir, 'run/systemd/system'), { recursive: true })
  const moved = script
    .replaceAll(/(?<![\w.])\/(run\/systemd|var\/lib\/smith|var\/backups|run\/smith|opt\/|etc\/)/g, `${dir}/$1`)
    .replaceAll(/(?<![\w.])\/usr\/lib\/systemd/g, `${options.tree}/usr/lib/systemd`)
  writeFileSync(join(dir, '.script'), moved)
  const env = { PATH: bin, ...(options.order === null ? {} : { SMITH_ORDER: options.order }) }
  const status = exitStatus(() => execFileSync('/bin/sh', [join(dir, '.script'), ...args], { env, stdio: 'pipe' }))
  const said = existsSync(calls) ? readFileSync(calls, 'utf8').trim().split('\n') : []
  return { status, calls: said.filter((call) => !/^(getent|systemctl --system daemon-reload)/.test(call)) }
}

function exitStatus(run: () => void): number {
  try {
    run()
    return 0
  } catch (error) {
    const { status } = error as { status?: number | null }
    if (typeof status !== 'number') throw error
    return status
  }
}
