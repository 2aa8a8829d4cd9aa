/**
 * What lies where in the two packages, with which rights, and their control fields. Called by package.ts. Everything
 * belongs to root and only root can write it: what runs as root must not load code that the user smith can change.
 */
import { readFileSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { AGENT_BUNDLES, CHECKOUT, COORDINATOR_BUNDLES } from './bundles.ts'
import type { Entry } from './deb.ts'

const HERE = join(CHECKOUT, 'systemd')
const ABOUT_NODE = '\n It brings its own Node.js; nothing of another one is used or touched.'

export type PackageName = 'smith-agent' | 'smith-coordinator'
type Contents = {
  readonly bundles: typeof AGENT_BUNDLES
  readonly fields: Readonly<Record<string, string>>
  readonly files: readonly Entry[]
  readonly scripts: readonly ('postinst' | 'prerm' | 'postrm')[]
}

const COMMON_FIELDS = { Maintainer: 'smith <root@localhost>', Section: 'admin', Priority: 'optional' }

export const CONTENTS: Readonly<Record<PackageName, Contents>> = {
  'smith-agent': {
    bundles: AGENT_BUNDLES,
    fields: {
      ...COMMON_FIELDS,
      // What Node's own release needs; Essential packages (dpkg, util-linux) are not named.
      Depends: 'libc6 (>= 2.28), libgcc-s1, libstdc++6 (>= 5.2), apt (>= 2.0)',
      Recommends: 'systemd',
      Suggests: 'needrestart, logrotate',
      Description: `patches this machine in its turn, under an approved change request
 The agent of smith: an unprivileged service that keeps a connection to the
 coordinator, and a runner with root's rights that installs what was approved
 and nothing else. It stays quiet until the machine is enrolled.${ABOUT_NODE}`,
    },
    scripts: ['postinst', 'prerm', 'postrm'],
    files: [
      file('/usr/lib/systemd/system/smith-agent.service', 'smith-agent.service'),
      file('/usr/lib/systemd/system/smith-run.path', 'smith-run.path'),
      file('/usr/lib/systemd/system/smith-run.service', 'smith-run.service'),
      file('/usr/lib/systemd/system/smith-report.path', 'smith-report.path'),
      file('/usr/lib/systemd/system/smith-report.service', 'smith-report.service'),
      file('/usr/lib/sysusers.d/smith-agent.conf', 'agent/sysusers.conf'),
      file('/usr/lib/tmpfiles.d/smith-agent.conf', 'agent/tmpfiles.conf'),
      file('/etc/needrestart/conf.d/smith.conf', 'agent/needrestart.conf'),
      file('/etc/logrotate.d/smith-agent', 'agent/logrotate.conf'),
      file('/etc/smith/agent.toml', 'agent/agent.toml'),
      file('/etc/smith/repos/README', 'agent/repos-README'),
      file('/etc/smith/checks.d/README', 'agent/checks-README'),
      { path: '/etc/smith/checks.d/pre', mode: 0o755, folder: true },
      { path: '/etc/smith/checks.d/post', mode: 0o755, folder: true },
      launcher('smith-agent', 'smith-agent', 'agent/main.mjs'),
    ],
  },
  'smith-coordinator': {
    bundles: COORDINATOR_BUNDLES,
    fields: {
      ...COMMON_FIELDS,
      // Its SQLite was built against newer libraries than Node.
      Depends: 'libc6 (>= 2.34), libgcc-s1, libstdc++6 (>= 11)',
      Recommends: 'systemd',
      Suggests: 'needrestart',
      Description: `patches Debian and Ubuntu machines strictly one after another
 The coordinator of smith, which owns the order of things, and the programs
 smith, smith-patch and smith-status. On a workstation it is installed for
 these programs: the coordinator stays quiet until it is configured.${ABOUT_NODE}`,
    },
    scripts: ['postinst', 'prerm', 'postrm'],
    files: [
      file('/usr/lib/systemd/system/smith-coordinator.service', 'smith-coordinator.service'),
      file('/usr/lib/sysusers.d/smith-coordinator.conf', 'coordinator/sysusers.conf'),
      file('/usr/lib/tmpfiles.d/smith-coordinator.conf', 'coordinator/tmpfiles.conf'),
      file('/etc/needrestart/conf.d/smith-coordinator.conf', 'coordinator/needrestart.conf'),
      file('/etc/smith/coordinator.toml', 'coordinator/coordinator.toml'),
      launcher('smith-coordinator', 'smith-coordinator', 'coordinator/main.mjs'),
      launcher('smith-coordinator', 'smith', 'cli/smith.mjs'),
      launcher('smith-coordinator', 'smith-patch', 'cli/smith-patch.mjs'),
      launcher('smith-coordinator', 'smith-status', 'cli/smith-status.mjs'),
    ],
  },
}

function file(path: string, source: string): Entry {
  return { path, mode: 0o644, from: join(HERE, source) }
}

/** A program on PATH: the package's own Node, whatever Node there is besides. */
function launcher(name: PackageName, program: string, module: string): Entry {
  const folder = `/usr/lib/${name}`
  return {
    path: `/usr/bin/${program}`,
    mode: 0o755,
    bytes: `#!/bin/sh
# Options that are meant for another Node must not reach this one.
unset NODE_OPTIONS NODE_PATH
exec ${folder}/node ${folder}/${module} "$@"
`,
  }
}

export function scriptsOf(name: PackageName): Record<string, string> {
  const folder = name === 'smith-agent' ? 'agent' : 'coordinator'
  return Object.fromEntries(
    CONTENTS[name].scripts.map((script) => [script, readFileSync(join(HERE, folder, script), 'utf8')]),
  )
}

/** Every file below a folder, for a place in the package. */
export async function filesBelow(folder: string, place: string): Promise<Entry[]> {
  const found = await readdir(folder, { recursive: true, withFileTypes: true })
  return found.flatMap((one) => {
    if (!one.isFile()) return []
    const from = join(one.parentPath, one.name)
    return [{ path: join(place, from.slice(folder.length)), mode: 0o644, from }]
  })
}

export function copyrightText(version: string, nodeLicence: string, licences: string): string {
  return `smith ${version} is licensed under the Apache License, Version 2.0: /usr/share/common-licenses/Apache-2.0

This package holds Node.js and parts of other free software, with their licences as follows.

${'-'.repeat(80)}
${nodeLicence.trim()}

${licences}`
}
