/**
 * Whether the files that this agent was loaded from are still the ones on the disk: after an upgrade of its package
 * they are others, and no script of the package restarts it, since that script may belong to a run that the agent
 * reports. Used by run.ts. Costs nothing while nothing changes: the kernel tells of it.
 */
import { lstatSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { OwnFiles } from './ports.ts'

/** Of a package: `folder` holds the agent's bundle, and the folder above it the version and Node itself. */
export function createOwnFiles(folder: string): OwnFiles {
  const above = dirname(folder)
  const files = [join(folder, 'main.mjs'), join(above, 'package.json'), join(above, 'node')]
  const loaded = files.map(stateOf).join()
  return { folders: [folder, above], areReplaced: () => files.map(stateOf).join() !== loaded }
}

/** Null in a checkout, where whoever develops decides when to restart. */
export function ownFolder(): string | null {
  return import.meta.url.endsWith('.ts') ? null : dirname(fileURLToPath(import.meta.url))
}

/** A package manager puts a new file in the place of an old one, so it is another even with the same content. */
function stateOf(path: string): string {
  const facts = lstatSync(path, { throwIfNoEntry: false })
  return facts === undefined ? 'gone' : `${facts.dev}:${facts.ino}:${facts.ctimeMs}`
}
