/**
 * Which repository a build is: the files of `repos_dir`, and what the downloaded Release files say. Reads only
 * root-owned configuration; nothing that comes over the network chooses a source.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { Refusal } from '../../protocol/errors.ts'
import { BUILD_PATTERN } from '../../protocol/ids.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import type { PlanEvidence } from '../../protocol/plan.ts'
import { type Disk, listNames, readIfExists } from '../disk/disk.ts'
import { parseListName, parseRelease, parseStanzas } from './parsers.ts'

const SOURCES_BYTES_MAX = 1024 * 1024
const TEMPLATE = 'build.sources.in'

/** The builds that a machine's configuration knows, and whether any number will do. */
export function knownBuilds(disk: Disk, reposDir: string): { readonly builds: string[]; readonly template: boolean } {
  const names = listNames(disk, reposDir)
  const builds = names
    .flatMap((name) => (name.endsWith('.sources') ? [name.slice(0, -'.sources'.length)] : []))
    .filter((build) => BUILD_PATTERN.test(build))
    .toSorted(compareNaturally)
  return { builds, template: names.includes(TEMPLATE) }
}

/** The deb822 text of a build's sources. */
export function sourcesOf(
  disk: Disk,
  reposDir: string,
  build: string,
): { readonly text: string; readonly file: string } | Refusal {
  for (const [name, isTemplate] of [
    [`${build}.sources`, false],
    [TEMPLATE, true],
  ] as const) {
    if (isTemplate && build === 'prod') continue
    const file = join(reposDir, name)
    let bytes: Buffer | null
    try {
      bytes = readIfExists(disk, file, SOURCES_BYTES_MAX)
    } catch (error) {
      return unreadable(file, error)
    }
    if (bytes === null) continue
    const text = bytes.toString('utf8')
    return { text: isTemplate ? text.replaceAll('{build}', build) : text, file }
  }
  return {
    kind: 'unknown-build',
    message: `build ${build} is not configured on this machine`,
    subject: build,
    remedy: `Put ${build}.sources${build === 'prod' ? '' : ` or ${TEMPLATE}`} into ${reposDir}.`,
  }
}

/** The files that the sources name with Signed-By, which the planning user must be able to read. */
export function keyFilesOf(sources: string): string[] {
  return parseStanzas(sources).flatMap((stanza) =>
    (stanza.get('signed-by') ?? '').split(/\s+/).filter((word) => word.startsWith('/')),
  )
}

/** What stands in a folder of lists, and the one build that all of it names. */
export function releasesIn(
  disk: Disk,
  lists: string,
): { readonly releases: PlanEvidence['releases']; readonly number: string | null } {
  const names = listNames(disk, lists)
  const releases: PlanEvidence['releases'] = []
  const numbers = new Set<string | null>()
  for (const name of names) {
    const source = parseListName(name)
    if (source === null || (name.endsWith('_Release') && names.includes(name.replace(/_Release$/, '_InRelease'))))
      continue
    const bytes = readIfExists(disk, join(lists, name))
    if (bytes === null) continue
    const release = parseRelease(bytes.toString('utf8'))
    releases.push({
      uri: source.uri.slice(0, 2000),
      suite: source.suite.slice(0, 2000),
      sha256: createHash('sha256').update(bytes).digest('hex'),
      date: release.dateAt ?? 0,
      ...(release.validUntilAt === null ? {} : { validUntil: release.validUntilAt }),
    })
    numbers.add(release.number)
  }
  const [only] = numbers
  return { releases, number: numbers.size === 1 && only !== undefined ? only : null }
}

/** The sources whose Date is before one that was seen already: a repository that went back, or was put back. */
export function releasesGoneBack(seen: PlanEvidence['releases'], now: PlanEvidence['releases']): string[] {
  const key = (one: { uri: string; suite: string }) => `${one.uri} ${one.suite}`
  const before = new Map(seen.map((one) => [key(one), one.date]))
  return now.filter((one) => one.date < (before.get(key(one)) ?? 0)).map(key)
}

export function unreadable(file: string, error: unknown): Refusal {
  const why = error instanceof Error ? error.message : String(error)
  return {
    kind: 'cannot-plan',
    message: `${file} can't be read: ${why}`,
    subject: file,
    remedy: `Make ${file} readable for the user smith (chmod a+r), or plan would differ from what root installs.`,
  }
}
