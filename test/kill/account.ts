/**
 * A machine's own account of what apt and dpkg did on it, written by apt's hooks and the packages' scripts into a file
 * that smith knows nothing of: each run of apt with its begin and end, each package likewise, with the time and the
 * order that the environment names.
 */
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { PackageSpec } from '../archive/builder.ts'
import type { SiteMachine } from '../demo/site.ts'
import { type OnDisk, textIn } from './stages.ts'

export const PACKAGES = ['killed-lib', 'killed-app'] as const
const FILE = 'account'

/** apt's own hooks, around the work of dpkg in each run. */
export function keepAccount(machine: SiteMachine): void {
  const script = join(machine.dir, 'tell')
  const line = `"$(date +%s%N) apt $1 \${SMITH_ORDER:-nobody}"`
  writeFileSync(script, `#!/bin/sh\necho ${line} >> ${join(machine.dir, FILE)}\n`)
  chmodSync(script, 0o755)
  const hooks = `DPkg::Pre-Invoke:: "${script} begin";\nDPkg::Post-Invoke:: "${script} end";\n`
  writeFileSync(join(machine.root.root, 'etc/apt/apt.conf.d/99account'), hooks)
}

/** Both packages of a version; what their scripts print is in the account too, to be found in the log again. */
export function packagesOf(version: string): PackageSpec[] {
  const tell = (script: string, name: string, when: string) => {
    const line = `"$(date +%s%N) package ${script} \${SMITH_ORDER:-nobody} ${name} ${version}"`
    return `case "$1" in ${when})\nline=${line}\necho "$line" >> "$DPKG_ROOT/../${FILE}"\necho "$line"\nprintf 'raw \\377 %s\\n' "$1" ;;\nesac`
  }
  return PACKAGES.map((name) => ({
    name,
    version,
    files: { [`/usr/share/${name}`]: `${version}\n` },
    ...(name === 'killed-app' ? { depends: `killed-lib (= ${version})` } : {}),
    preinst: tell('begin', name, 'install|upgrade'),
    postinst: tell('end', name, 'configure'),
  }))
}

export type Happened = {
  readonly at: number
  readonly who: 'apt' | 'package'
  readonly what: 'begin' | 'end'
  readonly order: string
  readonly name: string
  readonly version: string
  /** As it was printed too. */
  readonly text: string
}

/** All that the machine has told so far, in its order. */
export function accountOf(machine: OnDisk): Happened[] {
  const lines = textIn(join(machine.dir, FILE)).split('\n')
  return lines.flatMap((text) => {
    const [nanoseconds, who, what, order, name = '', version = ''] = text.split(' ')
    if ((who !== 'apt' && who !== 'package') || (what !== 'begin' && what !== 'end') || order === undefined) return []
    return [{ at: Number(BigInt(nanoseconds ?? '0') / 1_000_000n), who, what, order, name, version, text }]
  })
}
