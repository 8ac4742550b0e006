// AWS SDK for JavaScript v3: parts in parallel, odd names, conditional creation, presigned, delete many.
import { createRequire } from 'node:module';
const require = createRequire(`${process.env.SOS_MODULES}/package.json`);
const s3lib = require('@aws-sdk/client-s3');
const { Upload } = require('@aws-sdk/lib-storage');
const { getSignedUrl } = require('@aws-sdk/s3-request-presigner');
const Bucket = process.env.SOS_BUCKET;
const check = (condition, what) => { if (!condition) { console.error(`not so: ${what}`); process.exit(1); } };
const client = new s3lib.S3Client({ endpoint: process.env.SOS_ENDPOINT, region: 'us-east-1', forcePathStyle: true });
await client.send(new s3lib.CreateBucketCommand({ Bucket }));
const names = ["a b", "a+b", "!'()*", "ключ", "😀", "%2F", "x/../y", "?q=1&r", "#h", " lead", "trail "];
for (const name of names) await client.send(new s3lib.PutObjectCommand({ Bucket, Key: `odd/${name}`, Body: name }));
const listed = await client.send(new s3lib.ListObjectsV2Command({ Bucket, Prefix: 'odd/' }));
check(listed.KeyCount === names.length, 'the listing has every odd name');
for (const name of names) {
  const answer = await client.send(new s3lib.GetObjectCommand({ Bucket, Key: `odd/${name}` }));
  check(await answer.Body.transformToString() === name, name);
}
const big = Buffer.alloc(17 * 1024 * 1024, 'abcdefg');
await new Upload({ client, params: { Bucket, Key: 'big', Body: big }, partSize: 5 * 1024 * 1024, queueSize: 4 }).done();
const back = await client.send(new s3lib.GetObjectCommand({ Bucket, Key: 'big' }));
check(Buffer.from(await back.Body.transformToByteArray()).equals(big), '17 MiB in parts');
await client.send(new s3lib.CopyObjectCommand({ Bucket, Key: 'copy', CopySource: `${Bucket}/odd/a%2Bb` }));
await client.send(new s3lib.PutObjectCommand({ Bucket, Key: 'lock', Body: '1', IfNoneMatch: '*' }));
try {
  await client.send(new s3lib.PutObjectCommand({ Bucket, Key: 'lock', Body: '2', IfNoneMatch: '*' }));
  check(false, 'the second conditional creation is refused');
} catch (error) { check(error.$metadata?.httpStatusCode === 412, `412, not ${error}`); }
const url = await getSignedUrl(client, new s3lib.GetObjectCommand({ Bucket, Key: 'copy' }), { expiresIn: 60 });
let answer; // fetch does not repeat by itself: again after no answer and 503, never after other bytes
for (let attempt = 0; attempt < 20 && (!answer || answer.status === 503); attempt++) {
  if (attempt) await new Promise((resume) => setTimeout(resume, 200));
  answer = await fetch(url).then(async (got) => ({ status: got.status, body: await got.text() })).catch(() => undefined);
}
const shared = answer ? `${answer.status} ${answer.body}` : 'no answer';
check(shared === '200 a+b', `a presigned URL: ${shared}`);
const all = await client.send(new s3lib.ListObjectsV2Command({ Bucket }));
const gone = await client.send(new s3lib.DeleteObjectsCommand({ Bucket, Delete: { Objects: all.Contents.map(({ Key }) => ({ Key })) } }));
check(gone.Deleted.length === all.KeyCount && !gone.Errors, 'deletes of many');
await client.send(new s3lib.DeleteBucketCommand({ Bucket }));
console.log(require('@aws-sdk/client-s3/package.json').version);
