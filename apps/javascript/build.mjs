// build.mjs APPLICATION WIT COMPONENT: makes a component of an application in JavaScript, with QuickJS (1.6 MB).
//
// APPLICATION/guest.json names its source and its world.
import { componentize } from 'componentize-qjs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const [application, wit, output] = process.argv.slice(2);
const guest = JSON.parse(await readFile(join(application, 'guest.json'), 'utf8'));
const source = join(application, guest.source);

const { component } = await componentize({
  jsSource: await readFile(source, 'utf8'),
  jsPath: source,
  witPath: wit,
  world: guest.world,
  // Without the asynchronous ABI, and without WASI: the application sees its world and nothing else.
  sync: true,
  stubWasi: true,
});
await writeFile(output, component);
