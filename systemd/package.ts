/**
 * `npm run package [-- --fast] [--out DIR] [--arch x64|arm64]`: writes smith-agent and smith-coordinator as .deb into
 * dist/, each with its own Node. --fast compresses less, for a try. Needs dpkg-deb; strip makes them smaller.
 */
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs, promisify } from 'node:util'
import { CHECKOUT, licencesOf, makeBundles, packagesIn } from './bundles.ts'
import { CONTENTS, type PackageName, copyrightText, filesBelow, scriptsOf } from './contents.ts'
import { buildDashboard } from './dashboard.ts'
import { type DebSpec, makeDeb } from './deb.ts'
import { helpFilesOf } from './help-files.ts'

const run = promisify(execFile)

/** The same for every build, unless it is given: the packages depend on their content alone. */
const EPOCH_DEFAULT = Date.UTC(2026, 0, 1) / 1000
const DEB_ARCH: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' }
const STRIP: Readonly<Record<string, string>> = { x64: 'x86_64-linux-gnu-strip', arm64: 'aarch64-linux-gnu-strip' }

export type PackageOptions = {
  readonly out: string
  readonly level: number
  readonly nodeArch: string
  readonly epoch: number
  readonly say: (line: string) => void
}
export type MadePackage = { readonly name: PackageName; readonly path: string; readonly isNew: boolean }

export const DEFAULTS: PackageOptions = {
  out: join(CHECKOUT, 'dist'),
  level: 6,
  nodeArch: process.arch,
  epoch: Number(process.env['SOURCE_DATE_EPOCH'] ?? EPOCH_DEFAULT),
  say: () => {},
}

/** Both at once, since each keeps one processor busy. */
export async function makePackages(options: PackageOptions): Promise<MadePackage[]> {
  await mkdir(options.out, { recursive: true })
  const work = await mkdtemp(join(tmpdir(), 'smith-package-'))
  try {
    const node = await strippedNode(options, work)
    const names: PackageName[] = ['smith-agent', 'smith-coordinator']
    return await Promise.all(
      names.map(async (name) => {
        const spec = await specOf(name, options, node, join(work, name))
        return { name, ...(await makeDeb(spec, options.out)) }
      }),
    )
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

async function specOf(name: PackageName, options: PackageOptions, node: Node, work: string): Promise<DebSpec> {
  const contents = CONTENTS[name]
  const version = await versionOf()
  const bundled = await makeBundles(contents.bundles, work, options.nodeArch)
  const used = [...bundled, ...(name === 'smith-coordinator' ? await addDashboard(join(work, 'coordinator')) : [])]
  const place = `/usr/lib/${name}`
  return {
    name,
    version,
    arch: DEB_ARCH[options.nodeArch] ?? options.nodeArch,
    fields: contents.fields,
    scripts: scriptsOf(name),
    epoch: options.epoch,
    level: options.level,
    entries: [
      ...contents.files,
      ...(await filesBelow(work, place)),
      ...helpFilesOf(name, { at: options.epoch * 1000, version }),
      { path: `${place}/node`, mode: 0o755, from: node.path },
      // The programs read their version from here, as in a checkout.
      { path: `${place}/package.json`, mode: 0o644, bytes: `${JSON.stringify({ name, version, type: 'module' })}\n` },
      {
        path: `/usr/share/doc/${name}/copyright`,
        mode: 0o644,
        bytes: copyrightText(version, node.licence, licencesOf([...new Set(used)].toSorted())),
      },
    ],
  }
}

/** Beside the program that serves it; answers the npm packages in it, as `makeBundles` does. */
async function addDashboard(folder: string): Promise<string[]> {
  const { files, inputs } = await buildDashboard()
  await mkdir(join(folder, 'dashboard'))
  for (const [file, bytes] of files) await writeFile(join(folder, 'dashboard', file), bytes)
  return packagesIn(inputs)
}

async function versionOf(): Promise<string> {
  const about = JSON.parse(await readFile(join(CHECKOUT, 'package.json'), 'utf8')) as { version: string }
  return about.version
}

type Node = { readonly path: string; readonly licence: string }

/** Without its symbols Node is 18 MB smaller, and addons load in it all the same. */
async function strippedNode(options: PackageOptions, work: string): Promise<Node> {
  const folder = join(CHECKOUT, 'node_modules', `node-linux-${options.nodeArch}`)
  const path = join(folder, 'bin/node')
  if (DEB_ARCH[options.nodeArch] === undefined || !existsSync(path)) {
    throw new Error(
      `there is no Node for ${options.nodeArch} in ${folder}; npm installs the one of the machine that it runs on, so build there`,
    )
  }
  const licence = await readFile(join(folder, 'LICENSE'), 'utf8')
  const stripped = join(work, 'node')
  for (const program of [STRIP[options.nodeArch] ?? '', ...(options.nodeArch === process.arch ? ['strip'] : [])]) {
    try {
      await run(program, ['--strip-all', '-o', stripped, path])
      return { path: stripped, licence }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  options.say('strip (Debian package binutils) is not here: Node keeps its symbols, and the packages are larger')
  return { path, licence }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { fast: { type: 'boolean' }, out: { type: 'string' }, arch: { type: 'string' } },
  })
  const say = (line: string) => void process.stdout.write(`${line}\n`)
  const made = await makePackages({
    ...DEFAULTS,
    ...(values.fast === true ? { level: 0 } : {}),
    ...(values.out === undefined ? {} : { out: values.out }),
    ...(values.arch === undefined ? {} : { nodeArch: values.arch }),
    say,
  })
  for (const { path, isNew } of made) {
    const { size } = await stat(path)
    say(`${path}  ${(size / 1_000_000).toFixed(1)} MB${isNew ? '' : '  (unchanged)'}`)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
