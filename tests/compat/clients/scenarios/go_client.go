// AWS SDK for Go v2: the upload manager, odd names, conditional creation, presigned, delete many.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

func check(condition bool, what string) {
	if !condition {
		fmt.Fprintln(os.Stderr, "not so:", what)
		os.Exit(1)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// net/http does not repeat by itself: again after no answer and 503, never after other bytes.
func fetch(url string) string {
	answer := "no answer"
	for attempt := 0; attempt < 20; attempt++ {
		if attempt > 0 {
			time.Sleep(200 * time.Millisecond)
		}
		got, err := http.Get(url)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(got.Body)
		got.Body.Close()
		if err != nil {
			continue
		}
		answer = fmt.Sprintf("%d %s", got.StatusCode, body)
		if got.StatusCode != 503 {
			break
		}
	}
	return answer
}

func main() {
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion("us-east-1"))
	must(err)
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.BaseEndpoint = aws.String(os.Getenv("SOS_ENDPOINT"))
		o.UsePathStyle = true
	})
	bucket := aws.String(os.Getenv("SOS_BUCKET"))
	_, err = client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket})
	must(err)
	names := []string{"a b", "a+b", "!'()*", "ключ", "😀", "%2F", "?q=1&r", "#h", " lead", "trail "}
	for _, name := range names {
		_, err = client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("odd/" + name), Body: bytes.NewReader([]byte(name))})
		must(err)
	}
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: bucket, MaxKeys: aws.Int32(3)})
	var objects []types.ObjectIdentifier
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		must(err)
		for _, one := range page.Contents {
			objects = append(objects, types.ObjectIdentifier{Key: one.Key})
		}
	}
	check(len(objects) == len(names), "the listing has every odd name")
	for _, name := range names {
		answer, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("odd/" + name)})
		must(err)
		body, err := io.ReadAll(answer.Body)
		must(err)
		check(string(body) == name, name)
	}
	big := bytes.Repeat([]byte("abcdefg"), 2500000)
	up := manager.NewUploader(client, func(u *manager.Uploader) { u.PartSize = 5 << 20 })
	_, err = up.Upload(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("big"), Body: io.MultiReader(bytes.NewReader(big))})
	must(err)
	sink := manager.NewWriteAtBuffer(nil)
	_, err = manager.NewDownloader(client).Download(ctx, sink, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("big")})
	must(err)
	check(bytes.Equal(sink.Bytes(), big), "17 MB in parts")
	lock := func() error {
		_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("lock"), Body: bytes.NewReader([]byte("x")), IfNoneMatch: aws.String("*")})
		return err
	}
	must(lock())
	var api smithy.APIError
	check(errors.As(lock(), &api) && api.ErrorCode() == "PreconditionFailed", "the second conditional creation is refused")
	signed, err := s3.NewPresignClient(client).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("odd/a+b")})
	must(err)
	shared := fetch(signed.URL)
	check(shared == "200 a+b", "a presigned URL: "+shared)
	objects = append(objects, types.ObjectIdentifier{Key: aws.String("big")}, types.ObjectIdentifier{Key: aws.String("lock")})
	gone, err := client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: objects}})
	must(err)
	check(len(gone.Deleted) == len(objects) && len(gone.Errors) == 0, "deletes of many")
	_, err = client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: bucket})
	must(err)
	fmt.Println(aws.SDKVersion)
}
